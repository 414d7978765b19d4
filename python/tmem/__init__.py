# SPDX-License-Identifier: Apache-2.0
"""Transcendent memory for Linux user space: NumPy arrays larger than the RAM they may use.

mem = tmem.Memory(ram="2G", swap="20G")
a = mem.zeros((50_000, 100_000), dtype="f4")  # a real numpy.ndarray
mem.stats()
"""

from tmem._core import __version__
from tmem.backends import LocalBackend, PlainCopies, PoolBackend, RefuseAll
from tmem.counters import Stats
from tmem.errors import (
    BudgetError,
    ClosedError,
    GuardWarning,
    KernelUnsupported,
    OvershootWarning,
    PageLostError,
    SizeError,
    SwapError,
    TmemError,
    TmemWarning,
)
from tmem.frontswap import Frontswap, FrontswapStats, SwapDevice, SwapDeviceStats
from tmem.memory import Memory
from tmem.ops import FrontswapOps
from tmem.outcome import Outcome, Reason, Refused, Stored

__all__ = [
    "BudgetError",
    "ClosedError",
    "Frontswap",
    "FrontswapOps",
    "FrontswapStats",
    "GuardWarning",
    "KernelUnsupported",
    "LocalBackend",
    "Memory",
    "Outcome",
    "OvershootWarning",
    "PageLostError",
    "PlainCopies",
    "PoolBackend",
    "Reason",
    "RefuseAll",
    "Refused",
    "SizeError",
    "Stats",
    "Stored",
    "SwapDevice",
    "SwapDeviceStats",
    "SwapError",
    "TmemError",
    "TmemWarning",
    "__version__",
]
