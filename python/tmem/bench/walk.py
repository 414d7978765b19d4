# SPDX-License-Identifier: Apache-2.0
"""The compiled loop, as Python sees it: one pass over any memory, on one thread or on several together.

Owns: how the passes of threads become one measurement. Called by worker. Calls the native module.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tmem import _core

__all__ = ["PAGE", "WAITED_NS", "WORDS", "Pass", "Walker", "places", "used_cpu"]

PAGE = 4096
WORDS = PAGE // 8
WAITED_NS = 700.0
"""An access that took longer than this is counted as one that waited for its page; copying a page takes less."""

_GOLDEN = 0x9E3779B97F4A7C15
_PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}

Words = npt.NDArray[np.uint64]
Order = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: wall and CPU seconds of all threads, accesses, and how long those that waited did, in nanoseconds."""

    seconds: float
    cpu_seconds: float
    accesses: int
    waited: int
    latency_ns: dict[str, float] = field(default_factory=dict)


class Walker:
    """What is to be in a memory, and what is in it. `source` is an array of bytes, whole pages; `memory` as large.

    `seed` chooses the word of each page. RuntimeError from every method that finds a wrong byte.
    """

    def __init__(self, source: npt.NDArray[np.uint8], seed: int) -> None:
        self.memory = np.empty(0, np.uint8)
        self._source, self._seed = source, seed
        pages = source.size // PAGE
        self._expected: Words = source.view(np.uint64)[np.arange(pages) * WORDS + places(pages, seed)]
        self._written = 0

    def walk(self, mode: str, orders: Sequence[Order]) -> Pass:
        """Visit the pages in the threads' orders.

        `fill` copies whole pages (no page may be in two orders), `read` reads one word of each and compares it, `write`
        writes that word: what was there and a little more, as a counter does.
        """
        if mode == "fill":
            return self._together(orders, mode="fill", source=self._source)
        if mode == "read":
            return self._together(orders, mode="read")
        self._written += 1
        done = self._together(orders, mode="write", add=self._written)
        self._expected[np.unique(np.concatenate(list(orders)))] += np.uint64(self._written)
        return done

    def verify(self) -> None:
        """Compare every byte."""
        wrong, first = _core.walk_verify(self.memory, self._source, self._expected, seed=self._seed)
        if wrong:
            raise RuntimeError(f"{wrong} page(s) hold wrong bytes, the first is page {first}")

    def _together(self, orders: Sequence[Order], **how: Any) -> Pass:
        told: list[dict[str, Any] | None] = [None] * len(orders)
        barrier = threading.Barrier(len(orders))

        def one(number: int) -> None:
            barrier.wait()
            told[number] = _core.walk(self.memory, orders[number], self._expected, seed=self._seed, **how)

        others = [threading.Thread(target=one, args=(number,)) for number in range(1, len(orders))]
        for thread in others:
            thread.start()
        cpu, wall = used_cpu(), time.perf_counter()
        one(0)
        for thread in others:
            thread.join()
        wall, cpu = time.perf_counter() - wall, used_cpu() - cpu
        found = [each for each in told if each is not None]
        if len(found) < len(orders):
            raise RuntimeError("a thread of the walk ended without a result")
        for each in found:
            if each["wrong"]:
                page, was, should = each["first_wrong"]
                raise RuntimeError(
                    f"{each['wrong']} wrong word(s): the first in page {page}, {was:#x} instead of {should:#x}"
                )
        accesses = sum(len(order) for order in orders)
        waited, latency = _latency(found)
        return Pass(wall, cpu, accesses, waited, latency)


def places(pages: int, seed: int) -> npt.NDArray[np.intp]:
    """Return which word of each page is the one that is read and written; the compiled loop has the same rule."""
    numbers = np.arange(pages, dtype=np.uint64) + np.uint64(seed)
    return ((numbers * np.uint64(_GOLDEN)) >> np.uint64(55)).astype(np.intp)


def used_cpu() -> float:
    """Return the CPU seconds of all threads of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _latency(told: Sequence[dict[str, Any]]) -> tuple[int, dict[str, float]]:
    """Return how many accesses waited, and the percentiles of how long those did."""
    waits = sorted(pair for each in told for pair in each["latencies"] if pair[0] > WAITED_NS)
    if not waits:
        return 0, {}
    values = np.array([ns for ns, _ in waits])
    reached = np.cumsum([count for _, count in waits])
    whole = int(reached[-1])
    latency = {
        name: float(values[int(np.searchsorted(reached, share * whole))]) for name, share in _PERCENTILES.items()
    }
    return whole, latency | {"max": max(each["longest_ns"] for each in told)}
