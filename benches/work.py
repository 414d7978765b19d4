# SPDX-License-Identifier: Apache-2.0
"""The work that every peer does on one array of 64-bit integers, each step timed and its results checked.

Called by array_vs_zram in a process of its own: `python -m benches.work SPEC`, SPEC being JSON. It says `ready` when
all is imported, waits for a line, works, and prints lines of JSON. By then it may be under a memory limit.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

PAGE = 4096
CHUNK = 1 << 17  # elements: 1 MiB
ACCESSES = 20_000

Ints = np.ndarray[Any, np.dtype[np.int64]]


class Source:
    """Values by position, made from a seed: every step knows what it must find without keeping a copy."""

    def __init__(self, kind: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        length = 64 if kind == "runs" else 1
        self._base = random.integers(0, 1000, 8 * CHUNK // length).repeat(length)
        self._starts = random.integers(0, 7 * CHUNK // 512, 1 << 16) * 512

    def chunk(self, number: int) -> Ints:
        start = self._starts[number]
        return self._base[start : start + CHUNK]

    def at(self, indexes: Ints) -> Ints:
        number, within = np.divmod(indexes, CHUNK)
        return self._base[self._starts[number] + within]


def chunks(array: Ints) -> Iterator[tuple[int, Ints]]:
    """Yield the array in pieces of a MiB, numbered."""
    for start in range(0, len(array), CHUNK):
        yield start // CHUNK, array[start : start + CHUNK]


def fill(array: Ints, source: Source) -> None:
    for number, piece in chunks(array):
        piece[:] = source.chunk(number)


def read(array: Ints, source: Source) -> None:
    for number, piece in chunks(array):
        if not np.array_equal(piece, source.chunk(number)):
            raise SystemExit(f"wrong bytes in chunk {number}")


def scattered(array: Ints, seed: int) -> Ints:
    """Return positions on different pages, in random order."""
    random = np.random.default_rng(seed)
    pages = random.permutation(array.nbytes // PAGE)[:ACCESSES]
    return pages * (PAGE // 8) + random.integers(0, PAGE // 8, len(pages))


def random_read(array: Ints, source: Source, where: Ints) -> None:
    if not np.array_equal(array[where], source.at(where)):
        raise SystemExit("wrong bytes in random reads")


def random_write(array: Ints, source: Source, where: Ints) -> None:
    array[where] = source.at(where) + 1


def sort(array: Ints, total: int) -> None:
    array.sort()
    last, found = array[0], 0
    for _, piece in chunks(array):
        if piece[0] < last or (np.diff(piece) < 0).any():
            raise SystemExit("not sorted")
        last, found = piece[-1], found + int(piece.sum())
    if found != total:
        raise SystemExit("the sorted array holds other numbers")


def run(steps: dict[str, tuple[Callable[[], None], int]]) -> None:
    """Run each step and tell it at once: the process may be killed in the next."""
    for name, (step, units) in steps.items():
        cpu, wall = _cpu(), time.perf_counter()
        step()
        wall = time.perf_counter() - wall
        tell(step=name, us=wall / units * 1e6, seconds=wall, cpu_seconds=_cpu() - cpu)


def tell(**what: object) -> None:
    """Print one line of JSON."""
    print(json.dumps(what), flush=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - what is read here is no file to speak of
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def main() -> None:
    spec = json.loads(sys.argv[1])
    count = spec["bytes"] // 8
    source, memory = Source(spec["data"], spec["seed"]), None
    if spec["peer"] == "tmem":
        import tmem  # noqa: PLC0415 - the other peers are measured without it

        memory = tmem.Memory(spec["budget"], faults=spec["faults"])
    print("ready", flush=True)
    sys.stdin.readline()
    before = _peak()
    array = memory.empty(count, np.int64) if memory else np.empty(count, np.int64)
    one, two = scattered(array, spec["seed"] + 1), scattered(array, spec["seed"] + 2)
    total = sum(int(source.chunk(n).sum()) for n, _ in chunks(array)) + len(two)
    pages = array.nbytes // PAGE
    run(
        {
            "fill": (lambda: fill(array, source), pages),
            "seq_first": (lambda: read(array, source), pages),
            "seq_again": (lambda: read(array, source), pages),
            "random_read": (lambda: random_read(array, source, one), len(one)),
            "random_write": (lambda: random_write(array, source, two), len(two)),
            "job:sort": (lambda: sort(array, total), pages),
        }
    )
    tell(peak_over_start=_peak() - before)
    if memory:
        tell(entry=memory.faults, broken=memory.check(), swap_used=memory.stats().swap_used)


if __name__ == "__main__":
    main()
