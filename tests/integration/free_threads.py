# SPDX-License-Identifier: Apache-2.0
"""A worker of test_free_threaded: threads without a GIL on one Memory and under one limit, all at once.

Each thread owns some arrays of the Memory and writes and reads them, while the others evict, prefetch, pin and advise
the same arrays, ask for counters and the census, and make and drop arrays under the limit. Prints its findings as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tmem

THREADS = 8
LENGTH = 1 << 18  # i8: 2 MiB

Job = Callable[[], None]


class Ground:
    """What the threads share, and what they do to it."""

    def __init__(self, entry: str, seconds: float) -> None:
        self.memory = tmem.Memory("32M", swap="512M", faults=entry, name="free")
        self.budget = tmem.limit("32M", swap="512M", faults=entry, threshold="16K")
        self.arrays = [self.memory.full(LENGTH, number, "i8") for number in range(4 * THREADS)]
        self.end = time.monotonic() + seconds
        self.start = threading.Barrier(THREADS)
        self.rounds = [0] * THREADS
        self.wrong: list[str] = []

    def run(self, number: int) -> None:
        """Work until the time is over, or until something is wrong."""
        try:
            self.start.wait()
            rng = np.random.default_rng(number)
            mine = self.arrays[number::THREADS]
            value = number
            while time.monotonic() < self.end and not self.wrong:
                for array in mine:
                    array[:] = value
                self.steer(rng)
                self.allocate(rng, number)
                for array in mine:
                    if not (array == value).all():
                        self.wrong.append(f"thread {number} read {set(array.tolist())} for {value}")
                value += THREADS
                self.rounds[number] += 1
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            self.wrong.append(f"thread {number}: {error!r}")

    def steer(self, rng: np.random.Generator) -> None:
        """Do one thing to somebody's array."""
        array = self.arrays[int(rng.integers(len(self.arrays)))]
        half = array[: LENGTH // 2]
        jobs: list[Job] = [
            lambda: self.check(0 <= tmem.evict(half) <= half.nbytes + 4096, "more left than there is"),
            lambda: tmem.prefetch(half),
            lambda: tmem.advise(array, "sequential"),
            lambda: self.pin(half[: LENGTH // 16]),
            lambda: self.check(self.memory.stats().ram == self.memory.ram, "the counters are torn"),
            lambda: self.check(tmem.stats().numpy.managed > 0, "the census finds no array"),
        ]
        jobs[int(rng.integers(len(jobs)))]()

    def pin(self, array: Any) -> None:
        """Hold some pages while they are read."""
        with tmem.pin(array):
            array.sum()

    def allocate(self, rng: np.random.Generator, number: int) -> None:
        """Make, change and drop arrays of NumPy's own under the limit, and some in a thread of their own."""
        with self.budget:
            made = [np.full(int(size), number, "i4") for size in rng.integers(1, 1 << 17, 8)]
            grown = np.concatenate(made) + 1
            grown.resize(grown.size // 2, refcheck=False)
            if not (grown == number + 1).all():
                self.wrong.append(f"thread {number}: arrays under the limit hold other values")
            if number == 0:
                helper = threading.Thread(target=lambda: self.check(tmem.is_paged(np.ones(1 << 16)), "not carried"))
                helper.start()
                helper.join()
        self.check(not tmem.is_paged(np.ones(1 << 16)), "the limit reaches past its block")

    def check(self, holds: object, otherwise: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.wrong.append(otherwise)


def main() -> None:
    """Run all threads to the end and print what became of them."""
    given = json.loads(sys.argv[1])
    ground = Ground(given["entry"], given["seconds"])
    threads = [threading.Thread(target=ground.run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {
        "wrong": ground.wrong[:5],
        "rounds": ground.rounds,
        "broken": ground.memory.check() + ground.budget.memory.check(),
        "evictions": ground.memory.stats().evictions,
        "share": tmem.stats().numpy.share,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }
    print(json.dumps(found))  # noqa: T201 - to the test


if __name__ == "__main__":
    main()
