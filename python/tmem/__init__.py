# SPDX-License-Identifier: Apache-2.0
"""Transcendent memory for Linux user space: NumPy arrays larger than the RAM they may use.

mem = tmem.Memory(ram="2G", swap="20G")
a = mem.zeros((50_000, 100_000), dtype="f4")  # a real numpy.ndarray
mem.stats()
"""

from tmem._core import __version__
from tmem.counters import Stats
from tmem.errors import (
    BudgetError,
    ClosedError,
    GuardWarning,
    KernelUnsupported,
    OvershootWarning,
    PageLostError,
    PoolError,
    SizeError,
    SwapError,
    TmemError,
    TmemWarning,
)
from tmem.host import GuestStats, Host, HostStats
from tmem.memory import Memory
from tmem.outcome import Outcome, Reason, Refused, Stored
from tmem.pool import Pool, PoolStats

__all__ = [
    "BudgetError",
    "ClosedError",
    "GuardWarning",
    "GuestStats",
    "Host",
    "HostStats",
    "KernelUnsupported",
    "Memory",
    "Outcome",
    "OvershootWarning",
    "PageLostError",
    "Pool",
    "PoolError",
    "PoolStats",
    "Reason",
    "Refused",
    "SizeError",
    "Stats",
    "Stored",
    "SwapError",
    "TmemError",
    "TmemWarning",
    "__version__",
]
