# SPDX-License-Identifier: Apache-2.0
"""The compiled loop, as Python sees it: one pass over any memory, on one thread or on several together.

Owns: how the passes of threads become one measurement. Called by worker. Calls the native module.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator, Sequence
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
_PIECE = 2048
_PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}

Words = npt.NDArray[np.uint64]
Order = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: wall and CPU seconds of all threads, accesses, and how long those that waited did, in nanoseconds."""

    seconds: float
    cpu_seconds: float
    accesses: int
    waits: list[tuple[float, int]] = field(default_factory=list)
    longest_ns: float = 0.0

    @property
    def latency_ns(self) -> dict[str, float]:
        """Percentiles of how long those accesses took that waited."""
        if not self.waits:
            return {}
        values = np.array([ns for ns, _ in self.waits])
        reached = np.cumsum([count for _, count in self.waits])
        found = {name: values[int(np.searchsorted(reached, p * reached[-1]))] for name, p in _PERCENTILES.items()}
        return {name: float(ns) for name, ns in found.items()} | {"max": self.longest_ns}

    def as_dict(self) -> dict[str, Any]:
        """Return all of it but the histogram."""
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "accesses": self.accesses,
            "waited": sum(count for _, count in self.waits),
            "latency_ns": self.latency_ns,
        }


class Walker:
    """What is to be in a memory, and what is in it. `source` is an array of bytes, whole pages; `memory` as large.

    `seed` chooses the word of each page. RuntimeError from every method that finds a wrong byte.
    """

    def __init__(self, source: npt.NDArray[np.uint8], seed: int) -> None:
        self.memory = np.empty(0, np.uint8)
        self._source, self._seed = source, seed
        pages = source.size // PAGE
        self._expected: Words = source.view(np.uint64)[np.arange(pages) * WORDS + places(pages, seed)]
        self._fresh = np.zeros(pages, np.bool_)  # written in this pass
        self._written = 0

    def walk(self, mode: str, orders: Sequence[Order], seconds: float = 0.0) -> Pass:
        """Visit the pages in the threads' orders.

        `fill` copies whole pages (no page may be in two orders), `read` reads one word of each and compares it, `write`
        writes that word: what was there and a little more, as a counter does. Where `seconds` are given, reading and
        writing end behind them, and what was done until then counts; `fill` always goes to its end.
        """
        if mode == "fill":
            return self._together(orders, mode="fill", source=self._source)
        if mode == "write":
            self._written += 1
        done: list[Pass] = []
        pieces = self._pieces(orders) if seconds else [list(orders)]
        for piece in pieces:
            done.append(self._together(piece, mode=mode, add=self._written))
            if mode == "write":
                self._fresh[np.concatenate(piece)] = True
            if seconds and sum(each.seconds for each in done) > seconds:
                break
        self._expected[self._fresh] += np.uint64(self._written)
        self._fresh[:] = False
        return _sum(done)

    def _pieces(self, orders: Sequence[Order]) -> Iterator[list[Order]]:
        for start in range(0, max(len(order) for order in orders), _PIECE):
            yield [order[start : start + _PIECE] for order in orders]

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
        waits = sorted(pair for each in found for pair in each["latencies"] if pair[0] > WAITED_NS)
        return Pass(wall, cpu, accesses, waits, max(each["longest_ns"] for each in found))


def places(pages: int, seed: int) -> npt.NDArray[np.intp]:
    """Return which word of each page is the one that is read and written; the compiled loop has the same rule."""
    numbers = np.arange(pages, dtype=np.uint64) + np.uint64(seed)
    return ((numbers * np.uint64(_GOLDEN)) >> np.uint64(55)).astype(np.intp)


def used_cpu() -> float:
    """Return the CPU seconds of all threads of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _sum(passes: Sequence[Pass]) -> Pass:
    """Return the pieces of a pass as one."""
    return Pass(
        sum(each.seconds for each in passes),
        sum(each.cpu_seconds for each in passes),
        sum(each.accesses for each in passes),
        sorted(pair for each in passes for pair in each.waits),
        max(each.longest_ns for each in passes),
    )
