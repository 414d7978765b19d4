# SPDX-License-Identifier: Apache-2.0
"""Transcendent memory for Linux user space: NumPy arrays larger than the RAM they may use.

mem = tmem.Memory(ram="2G", swap="20G")
a = mem.zeros((50_000, 100_000), dtype="f4")  # a real numpy.ndarray
mem.stats()
"""

from tmem._core import __version__
from tmem.census import NumpyBytes
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
from tmem.numpylimit import Limit, install, limit, uninstall
from tmem.outcome import Outcome, Reason, Refused, Stored
from tmem.pool import Pool, PoolStats
from tmem.process import ProcessStats, stats
from tmem.steering import advise, evict, is_paged, pin, prefetch

__all__ = [
    "BudgetError",
    "ClosedError",
    "GuardWarning",
    "GuestStats",
    "Host",
    "HostStats",
    "KernelUnsupported",
    "Limit",
    "Memory",
    "NumpyBytes",
    "Outcome",
    "OvershootWarning",
    "PageLostError",
    "Pool",
    "PoolError",
    "PoolStats",
    "ProcessStats",
    "Reason",
    "Refused",
    "SizeError",
    "Stats",
    "Stored",
    "SwapError",
    "TmemError",
    "TmemWarning",
    "__version__",
    "advise",
    "evict",
    "install",
    "is_paged",
    "limit",
    "pin",
    "prefetch",
    "stats",
    "uninstall",
]
