# SPDX-License-Identifier: Apache-2.0
"""Transcendent memory for Linux user space: NumPy arrays larger than the RAM they may use.

mem = tmem.Memory(ram="2G", swap="20G")
a = mem.zeros((50_000, 100_000), dtype="f4")  # a real numpy.ndarray
mem.stats()
"""

from tmem._core import __version__
from tmem.backends import LocalBackend, PlainCopies, PoolBackend, RefuseAll
from tmem.cache import Cache, CacheStats
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
    SaveError,
    SizeError,
    SwapError,
    TmemError,
    TmemWarning,
)
from tmem.frontswap import Frontswap, FrontswapStats, SwapDevice, SwapDeviceStats
from tmem.host import GuestStats, Host, HostStats
from tmem.memory import Memory
from tmem.numpylimit import Limit, install, limit, uninstall
from tmem.ops import FrontswapOps
from tmem.outcome import Outcome, Reason, Refused, Stored
from tmem.pool import Pool, PoolStats, restore_pools, save_pools
from tmem.process import ProcessStats, stats
from tmem.steering import TIERS, advise, evict, is_paged, pin, prefetch, tiers

__all__ = [
    "BudgetError",
    "Cache",
    "CacheStats",
    "ClosedError",
    "Frontswap",
    "FrontswapOps",
    "FrontswapStats",
    "GuardWarning",
    "GuestStats",
    "Host",
    "HostStats",
    "KernelUnsupported",
    "Limit",
    "LocalBackend",
    "Memory",
    "NumpyBytes",
    "Outcome",
    "OvershootWarning",
    "PageLostError",
    "PlainCopies",
    "Pool",
    "PoolBackend",
    "PoolError",
    "PoolStats",
    "ProcessStats",
    "Reason",
    "RefuseAll",
    "Refused",
    "SaveError",
    "SizeError",
    "Stats",
    "Stored",
    "SwapDevice",
    "SwapDeviceStats",
    "SwapError",
    "TIERS",
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
    "restore_pools",
    "save_pools",
    "stats",
    "tiers",
    "uninstall",
]
