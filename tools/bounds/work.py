# SPDX-License-Identifier: Apache-2.0
"""The fixed piece of work whose counters are held to bounds; a process of its own that prints them as JSON by phase."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import numpy as np

import tmem

RAM = 16 << 20
PAGES = 4 * RAM // 4096
WORDS = 512
BLOCK = 256
COUNTED = (
    "faults",
    "moves",
    "evictions",
    "clean_evictions",
    "readahead_pages",
    "standby_hits",
    "loads",
    "succ_stores",
    "failed_stores",
    "swap_stores",
    "swap_loads",
    "copied",
)

Rows = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def packable(first: int, count: int) -> Rows:
    """Return pages that LZ4 packs to an eighth or less: runs of one value, other values on each page."""
    runs = np.arange(first * 16, (first + count) * 16, dtype=np.int64)
    return np.repeat(runs, WORDS // 16).reshape(count, WORDS)


def fill(rows: Rows) -> None:
    """Write every page in order."""
    for at in range(0, len(rows), BLOCK):
        rows[at : at + BLOCK] = packable(at, BLOCK)


def read(rows: Rows) -> None:
    """Read every page in order and verify it."""
    for at in range(0, len(rows), BLOCK):
        assert np.array_equal(rows[at : at + BLOCK], packable(at, BLOCK))


def stride(rows: Rows) -> None:
    """Read every seventh page."""
    assert np.array_equal(rows[::7, 0], np.arange(0, len(rows) * 16, 7 * 16))


def read_randomly(rows: Rows) -> None:
    """Read pages in a seeded order."""
    for page in np.random.default_rng(4).integers(0, len(rows), 4000):
        assert rows[page, 3] == page * 16


def write_randomly(rows: Rows) -> None:
    """Change a word of pages in a seeded order; the word is none of those read."""
    for page in np.random.default_rng(5).integers(0, len(rows), 4000):
        rows[page, WORDS - 1] = page


def phases() -> Iterator[tuple[str, tmem.Memory, Callable[[], None]]]:
    """Yield each phase with the memory whose counters it moves."""
    memory = tmem.Memory(RAM, swap=None, faults="signal", background=False)
    rows: Rows = memory.empty((PAGES, WORDS), dtype=np.int64)
    yield "fill", memory, lambda: fill(rows)
    yield "sequential_first", memory, lambda: read(rows)
    yield "sequential_again", memory, lambda: read(rows)
    yield "strided", memory, lambda: stride(rows)
    yield "random_read", memory, lambda: read_randomly(rows)
    yield "random_write", memory, lambda: write_randomly(rows)
    noise = np.random.default_rng(6).integers(0, 1 << 63, (BLOCK, WORDS))
    below = tmem.Memory(RAM, swap="64M", faults="signal", background=False)
    wide: Rows = below.empty((PAGES // 2, WORDS), dtype=np.int64)

    def unpackable() -> None:
        for at in range(0, len(wide), BLOCK):
            wide[at : at + BLOCK] = noise + at
        for at in range(0, len(wide), BLOCK):
            assert np.array_equal(wide[at : at + BLOCK], noise + at)

    yield "unpackable", below, unpackable


def main() -> None:
    """Do the work, phase by phase."""
    counted = {}
    for name, memory, work in phases():
        before = memory.stats().as_dict()
        work()
        after = memory.stats().as_dict()
        counted[name] = {key: int(str(after[key])) - int(str(before[key])) for key in COUNTED}
        assert memory.check() == []
    sys.stdout.write(json.dumps(counted))


if __name__ == "__main__":
    main()
