# SPDX-License-Identifier: Apache-2.0
"""What a fault costs with a Python backend in its process, beside the page store and Rust's plain copies.

`python -m benches.python_backend [--size MIB] [--rounds N] [--save]`. An array of twice its budget; what is read is
compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import tmem
from benches import machine
from tmem.testing import check_ops

PAGE = 4096
CHUNK = 1 << 17  # elements: 1 MiB
ACCESSES = 20_000

Ints = np.ndarray[Any, np.dtype[np.int64]]

PEERS = ("store", "plain", "python")
TOUCHES = 4000
STEPS = {"p50_us": "fault p50 (µs)", "p99_us": "fault p99 (µs)"} | {
    name: f"{text} (MiB/s)"
    for name, text in {"out": "evict all", "in": "read in order", "work": "add 1 in order"}.items()
}


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


def read(array: Ints, source: Source) -> None:
    for number, piece in chunks(array):
        if not np.array_equal(piece, source.chunk(number)):
            raise SystemExit(f"wrong bytes in chunk {number}")


def scattered(array: Ints, seed: int) -> Ints:
    """Return positions on different pages, in random order."""
    random = np.random.default_rng(seed)
    pages = random.permutation(array.nbytes // PAGE)[:ACCESSES]
    return pages * (PAGE // 8) + random.integers(0, PAGE // 8, len(pages))


class DictBackend(tmem.FrontswapOps):
    """The plainest backend there is."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, int], bytes] = {}
        self._areas: set[int] = set()

    def init(self, area: int, pages: int) -> None:  # noqa: ARG002 - the contract's
        self._areas.add(area)

    def store(self, area: int, page: int, data: memoryview) -> bool:
        if area in self._areas:
            self._pages[area, page] = bytes(data)
        return area in self._areas

    def load(self, area: int, page: int) -> bytes | None:
        return self._pages.get((area, page))

    def invalidate_page(self, area: int, page: int) -> None:
        self._pages.pop((area, page), None)

    def invalidate_area(self, area: int) -> None:
        self._areas.discard(area)
        self._pages = {handle: data for handle, data in self._pages.items() if handle[0] != area}


def work(peer: str, count: int, seed: int) -> dict[str, float]:
    """Return the figures of one round. Plain copies are in the budget, so that peer is given as much more."""
    from benches.python_backend import DictBackend as Importable  # noqa: PLC0415 - by a name that a process can import

    ram = count // 2 + (count if peer == "plain" else 0)
    ops: list[tmem.FrontswapOps | str] = [Importable() if peer == "python" else peer]
    memory, source = tmem.Memory(ram, swap=None, ops=ops), Source("runs", seed)
    array = memory.empty(count // 8, np.int64)
    for number, piece in chunks(array):
        piece[:] = source.chunk(number)
    mib, told = count / (1 << 20), {}
    told["out"] = mib / _timed(lambda: memory.evict(array))
    memory.advise(array, "random")
    where = scattered(array, seed)[:TOUCHES]
    times = _touch(array, where, source.at(where))
    told["p50_us"], told["p99_us"] = (float(np.percentile(times, part)) / 1000 for part in (50, 99))
    memory.evict(array)
    memory.advise(array, "sequential")
    told["in"] = mib / _timed(lambda: read(array, source))
    told["work"] = mib / _timed(lambda: _add(array))
    for number, piece in chunks(array):
        if not np.array_equal(piece, source.chunk(number) + 1):
            raise SystemExit(f"wrong bytes in chunk {number}")
    stats = memory.stats()
    if memory.check() or stats.overshoot_events or stats.loads < TOUCHES:
        raise SystemExit(f"unsound, or not the work that was meant: {memory.check()} {stats}")
    return told


def _touch(array: Ints, where: Ints, expected: Ints) -> list[int]:
    times = []
    for at, value in zip(where.tolist(), expected.tolist(), strict=True):
        begin = time.perf_counter_ns()
        found = array[at]
        times.append(time.perf_counter_ns() - begin)
        if found != value:
            raise SystemExit(f"wrong value at {at}")
    return times


def _add(array: Ints) -> None:
    for start in range(0, len(array), CHUNK):
        array[start : start + CHUNK] += 1


def _timed(step: Any) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="MiB of the array")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(work(given.worker, given.size << 20, given.rounds)))
        return
    if broken := check_ops(DictBackend()):
        raise SystemExit("\n".join(broken))
    rounds: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    for seed in range(given.rounds):
        for peer in PEERS:
            command = [sys.executable, "-m", "benches.python_backend", "--worker", peer]
            command += ["--size", str(given.size), "--rounds", str(seed)]
            done = subprocess.run(command, cwd=machine.ROOT, stdout=subprocess.PIPE, check=True, text=True)
            rounds[peer].append(json.loads(done.stdout))
    print("| median (spread) | " + " | ".join(PEERS) + " |\n| --- |" + " ---: |" * len(PEERS))
    for step, text in STEPS.items():
        cells = [[one[step] for one in rounds[peer]] for peer in PEERS]
        shown = [f"{statistics.median(cell):.1f} ({min(cell):.1f}-{max(cell):.1f})" for cell in cells]
        print(f"| {text} | " + " | ".join(shown) + " |")
    if given.save:
        result = {
            "machine": machine.describe(),
            "array_mib": given.size,
            "budget_mib": given.size // 2,
            "touches": TOUCHES,
            "page": PAGE,
            "rounds": rounds,
        }
        machine.save("python_backend", result)


if __name__ == "__main__":
    main()
