# SPDX-License-Identifier: Apache-2.0
"""Transcendent memory for Linux user space: NumPy arrays larger than the RAM they may use.

mem = tmem.Memory(ram="2G", swap="20G")
a = mem.zeros((50_000, 100_000), dtype="f4")  # a real numpy.ndarray
mem.stats()

Owns: the public names, and from which module each comes. A module is imported when one of its names is used for the
first time: `tmem run` starts a program, and has no time for NumPy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, whose import costs
if TYPE_CHECKING:
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
    from tmem.guest import ConnectionStats, Guest, SharedPool, SharedPoolStats, new_secret
    from tmem.host import GuestStats, Host, HostStats
    from tmem.memory import Memory
    from tmem.numpylimit import Limit, install, limit, uninstall
    from tmem.ops import FrontswapOps
    from tmem.outcome import Outcome, Reason, Refused, Stored
    from tmem.pool import Pool, PoolStats, restore_pools, save_pools
    from tmem.process import ProcessStats, stats
    from tmem.steering import TIERS, advise, evict, is_paged, pin, prefetch, tiers

__all__ = [
    "TIERS",
    "BudgetError",
    "Cache",
    "CacheStats",
    "ClosedError",
    "ConnectionStats",
    "Frontswap",
    "FrontswapOps",
    "FrontswapStats",
    "GuardWarning",
    "Guest",
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
    "SharedPool",
    "SharedPoolStats",
    "SizeError",
    "Stats",
    "Stored",
    "SwapDevice",
    "SwapDeviceStats",
    "SwapError",
    "TmemError",
    "TmemWarning",
    "__version__",
    "advise",
    "evict",
    "install",
    "is_paged",
    "limit",
    "new_secret",
    "pin",
    "prefetch",
    "restore_pools",
    "save_pools",
    "stats",
    "tiers",
    "uninstall",
]

_HOMES = {
    "_core": ("__version__",),
    "backends": ("LocalBackend", "PlainCopies", "PoolBackend", "RefuseAll"),
    "cache": ("Cache", "CacheStats"),
    "census": ("NumpyBytes",),
    "counters": ("Stats",),
    "errors": (
        "BudgetError",
        "ClosedError",
        "GuardWarning",
        "KernelUnsupported",
        "OvershootWarning",
        "PageLostError",
        "PoolError",
        "SaveError",
        "SizeError",
        "SwapError",
        "TmemError",
        "TmemWarning",
    ),
    "frontswap": ("Frontswap", "FrontswapStats", "SwapDevice", "SwapDeviceStats"),
    "guest": ("ConnectionStats", "Guest", "SharedPool", "SharedPoolStats", "new_secret"),
    "host": ("GuestStats", "Host", "HostStats"),
    "memory": ("Memory",),
    "numpylimit": ("Limit", "install", "limit", "uninstall"),
    "ops": ("FrontswapOps",),
    "outcome": ("Outcome", "Reason", "Refused", "Stored"),
    "pool": ("Pool", "PoolStats", "restore_pools", "save_pools"),
    "process": ("ProcessStats", "stats"),
    "steering": ("TIERS", "advise", "evict", "is_paged", "pin", "prefetch", "tiers"),
}
"""The public names of each module."""

if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> object:
        """Import the module that has this public name, or that is called so. AttributeError where there is none."""
        home = next((module for module, names in _HOMES.items() if name == module or name in names), None)
        if home is None:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        module = __import__(f"{__name__}.{home}", fromlist=["*"])
        if name != home:
            globals()[name] = getattr(module, name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_HOMES})
