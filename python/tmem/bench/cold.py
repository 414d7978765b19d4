# SPDX-License-Identifier: Apache-2.0
"""Pages that are all packed: how a memory is sent out whole, when it counts as cold, and what it says of itself then.

Owns: what "cold" is. Called by worker, in the process that is measured. Calls the Memory, or the kernel's own verb.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from tmem.bench.jobs import Place
from tmem.bench.places import Paged
from tmem.bench.walk import PAGE
from tmem.memory import Memory

__all__ = ["absent_pages", "cold_order", "reading", "send_out", "settle"]

_MADV_PAGEOUT = 21
_PRESENT = np.uint64(1 << 63)
_LONGEST = 60.0
_STILL = 1.0
_LOOK = 0.05
_COUNTERS = (
    "store_bytes", "store_pages", "store_packed", "store_cold", "store_same", "store_data", "store_slots",
    "store_mapped", "metadata", "swap_used", "resident",
)  # fmt: skip


def send_out(memory: npt.NDArray[np.uint8], place: Place) -> None:
    """Send every page of a memory out of RAM: with ours by `evict`, with the kernel's swap by MADV_PAGEOUT."""
    if isinstance(place, Paged):
        place.memory.evict(memory)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes), _MADV_PAGEOUT):
        code = ctypes.get_errno()
        raise OSError(code, f"MADV_PAGEOUT: {os.strerror(code)}")


def settle(place: Place) -> float:
    """Make a memory cold; return how many seconds that took.

    Ours is cold when `Memory.settle` has packed all that is out as tightly as happens by itself in time, and its store
    has not shrunk for a second since, a minute at most. zram is as cold as it gets as soon as its pages are out.
    """
    if not isinstance(place, Paged):
        return 0.0
    memory: Memory = place.memory
    begin = time.monotonic()
    memory.settle()
    settled = time.monotonic()
    least, since = memory.stats().store_bytes, settled
    while (now := time.monotonic()) < min(since + _STILL, settled + _LONGEST):
        time.sleep(_LOOK)
        taken = memory.stats().store_bytes
        if taken < least:
            least, since = taken, now
    return time.monotonic() - begin


def reading(place: Place) -> dict[str, Any]:
    """Return the counters of ours that the footprint is made of; nothing of other memories."""
    if not isinstance(place, Paged):
        return {}
    said = place.memory.stats().as_dict()
    return {name: said[name] for name in _COUNTERS}


def cold_order(absent: npt.NDArray[np.bool_], count: int, seed: int) -> npt.NDArray[np.uint32]:
    """Return at most `count` of the pages that are absent at random, each once."""
    pages = np.flatnonzero(absent).astype(np.uint32)
    np.random.default_rng([seed, 5]).shuffle(pages)
    return pages[:count]


def absent_pages(memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return for each page of a memory whether a touch of it would fault, as the kernel says: whoever took it out.

    With ours, the one in a hundred or so that is on standby is among them: out, and not packed yet.
    """
    table = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        said = os.pread(table, memory.nbytes // PAGE * 8, memory.ctypes.data // PAGE * 8)
    finally:
        os.close(table)
    absent: npt.NDArray[np.bool_] = np.frombuffer(said, np.uint64) & _PRESENT == 0
    return absent
