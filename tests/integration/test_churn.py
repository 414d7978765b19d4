# SPDX-License-Identifier: Apache-2.0
"""Random work on arrays far past the budget, against plain arrays that say what is right."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import tmem

RAM = 16 << 20
LARGEST = RAM // 2


class Churn:
    """A few arrays, their shadows, and things to do with them; one for each thread."""

    def __init__(self, memory: tmem.Memory, seed: int) -> None:
        self.memory = memory
        self.random = np.random.default_rng(seed)
        self.pairs: list[tuple[Any, Any]] = []

    def step(self) -> None:
        """Do one thing, chosen by chance."""
        doing = [self.make, self.write, self.write, self.read, self.read, self.steer, self.hold, self.drop]
        doing[self.random.integers(len(doing))]()

    def make(self) -> None:
        """Make an array, unless there are enough."""
        if len(self.pairs) < 8:
            size = int(self.random.integers(1, LARGEST))
            self.pairs.append((self.memory.zeros(size, "u1"), np.zeros(size, "u1")))

    def write(self) -> None:
        """Write noise, or one byte, or a pattern, somewhere."""
        for array, shadow in self._one():
            part = self._part(array.size)
            count = len(range(*part.indices(array.size)))
            kind = self.random.integers(3)
            noise = self.random.integers(0, 256 if kind == 0 else 4, 1 if kind == 1 else count, dtype="u1")
            array[part] = noise
            shadow[part] = noise

    def read(self) -> None:
        """Compare what is there with what was written."""
        for array, shadow in self._one():
            part = self._part(array.size)
            np.testing.assert_array_equal(array[part], shadow[part])

    def steer(self) -> None:
        """Evict, prefetch or advise a part."""
        for array, _ in self._one():
            part = array[self._part(array.size)]
            kind = self.random.integers(3)
            if kind == 0:
                self.memory.evict(part)
            elif kind == 1:
                self.memory.prefetch(part)
            else:
                self.memory.advise(part, ("normal", "sequential", "random", "cold")[self.random.integers(4)])

    def hold(self) -> None:
        """Pin a small part while others move."""
        for array, shadow in self._one():
            with self.memory.pin(array[: 1 << 16]) as part:
                self.write()
                np.testing.assert_array_equal(part, shadow[: 1 << 16])

    def drop(self) -> None:
        """Let an array go."""
        if len(self.pairs) > 3:
            del self.pairs[self.random.integers(len(self.pairs))]

    def _one(self) -> list[tuple[Any, Any]]:
        return [self.pairs[self.random.integers(len(self.pairs))]] if self.pairs else []

    def _part(self, size: int) -> slice:
        start, stop = sorted(self.random.integers(0, size + 1, 2))
        return slice(int(start), int(stop), int(self.random.choice([1, 1, 1, 3, 4097])))


def _churn(memory: tmem.Memory, seconds: float, threads: int) -> None:
    failures: list[BaseException] = []
    ending = time.monotonic() + seconds

    def work(seed: int) -> None:
        churn = Churn(memory, seed)
        try:
            while time.monotonic() < ending and not failures:
                churn.step()
            for array, shadow in churn.pairs:
                np.testing.assert_array_equal(array, shadow)
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    assert memory.check() == []
    assert memory.stats().evictions > 0


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [
        (4, 1),
        (4, 3),
        pytest.param(60, 1, marks=pytest.mark.long),
        pytest.param(60, 4, marks=[pytest.mark.long, pytest.mark.timeout(240)]),
    ],
)
def test_churn_never_loses_a_byte(make: Any, seconds: float, threads: int) -> None:
    _churn(make(swap="512M"), seconds, threads)
