# SPDX-License-Identifier: Apache-2.0
"""Law 8 from several threads: whatever the order, a page that comes back is one store's.

Owns: the threads. Called by check. Every word of a page names its handle, its thread and its round, so that a reader
knows a mixture at sight, without a lock that would keep the threads from meeting.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable

import numpy as np

from tmem.ops import PAGE_SIZE, FrontswapOps

__all__ = ["hammer"]

_THREADS = 4
_HANDLES = ((0, 0), (0, 1))
_MAGIC = 0x7E << 56
_SWITCH_SECONDS = 1e-6


def hammer(ops: FrontswapOps, note: Callable[[str], None], *, seed: int, rounds: int) -> None:
    """Store and load few pages of area 0 from several threads, `rounds` times each; note what no order explains."""
    last: list[dict[int, int]] = [
        {} for _ in range(_THREADS)
    ]  # the last round stored by handle; -1 where it was refused

    def chance(thread: int) -> random.Random:
        return random.Random(seed * _THREADS + thread)  # noqa: S311 - to be repeated, not to be secret

    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        threads = [
            threading.Thread(target=_work, args=(ops, note, chance(n), n, rounds, last[n])) for n in range(_THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    for handle in range(len(_HANDLES)):
        _settled(ops, note, handle, last)


def _work(
    ops: FrontswapOps,
    note: Callable[[str], None],
    chance: random.Random,
    thread: int,
    rounds: int,
    last: dict[int, int],
) -> None:
    try:
        for number in range(rounds):
            handle = chance.randrange(len(_HANDLES))
            area, page = _HANDLES[handle]
            word = _MAGIC | handle << 48 | thread << 40 | number
            data = np.full(PAGE_SIZE // 8, word, np.uint64).tobytes()
            last[handle] = number if ops.store(area, page, memoryview(data)) else -1
            _look(ops, note, chance.randrange(len(_HANDLES)))
    except Exception as error:  # noqa: BLE001 - told, whatever it is
        note(f"law 8: a verb called from several threads raised {type(error).__name__}: {error}")


def _look(ops: FrontswapOps, note: Callable[[str], None], handle: int) -> int | None:
    """Load a page; return its word, None where there is none or it is wrong."""
    area, page = _HANDLES[handle]
    found = ops.load(area, page)
    if found is None:
        return None
    words = np.frombuffer(bytes(found), np.uint64)
    name = f"page {page} of area {area}"
    if words.size != PAGE_SIZE // 8:
        note(f"law 12: load of {name} gave {words.size * 8} bytes, not the {PAGE_SIZE} of a page")
    elif (words != words[0]).any():
        note(f"law 8: {name} is torn: with several threads a load gives a mixture of two stores")
    elif int(words[0]) >> 48 != (_MAGIC >> 48 | handle):
        note(f"law 12: with several threads {name} gives other bytes than any that were stored there")
    else:
        return int(words[0])
    return None


def _settled(ops: FrontswapOps, note: Callable[[str], None], handle: int, last: list[dict[int, int]]) -> None:
    """Look once all threads are through: only a thread's last store can be there."""
    try:
        word = _look(ops, note, handle)
    except Exception as error:  # noqa: BLE001 - told, whatever it is
        note(f"law 8: a load after several threads raised {type(error).__name__}: {error}")
        return
    if word is not None and last[word >> 40 & 0xFF].get(handle) != word & 0xFFFFFFFF:
        area, page = _HANDLES[handle]
        note(f"law 3: once several threads were through, page {page} of area {area} gives older contents")
