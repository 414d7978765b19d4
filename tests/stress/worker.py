# SPDX-License-Identifier: Apache-2.0
"""Threads that write, verify, pin, free and allocate over some budgets, while others evict, settle and fork.

The argument is JSON: the entry, the budget, for how many seconds, a seed, whether to do it as a plain user, how many
budgets the arrays come to, how many threads do one thing after another, the swap device, which pages are looked up
among those stored, and whether store and swap device may have no room. Each 8-byte word is a function of its array's
key, its index and the generation written last, so that every byte is verified and nothing but three numbers is kept of
an array. The last line told is JSON: what was done, and how often.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import Generator, default_rng  # now: nobody may not be able to read it

import tmem

Words = npt.NDArray[np.uint64]

PIECE = 1 << 13  # words generated at a time
LARGEST = 1 << 18  # words of an array
NOBODY = 65534
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
ODD = np.uint64(0x9E3779B97F4A7C15)
INDEX = np.arange(LARGEST, dtype=np.uint64)
KINDS = 4  # of contents: noise, a ramp, words of a small vocabulary, pages that other arrays have too
NOISE, RAMP, TEXT, TWINS = range(KINDS)
LETTERS, LOWER, SPREAD = np.uint64(0x1F1F1F1F1F1F1F1F), np.uint64(0x6060606060606060), np.uint64(0x0101735111330717)
SAME = 5  # generations after which twins are the same again


class Content(NamedTuple):
    """What an array holds: one generation, or while it is being written some bytes of `old` and some of the new."""

    array: Words
    key: int
    generation: int
    old: int

    def words(self, generation: int, start: int) -> Words:
        """Make the words of a piece, of the kind that the key says."""
        index = INDEX[start : min(start + PIECE, self.array.size)]
        kind = self.key % KINDS
        if kind == TWINS:
            return index % np.uint64(PIECE) * ODD + np.uint64(generation % SAME)
        word = index + np.uint64((self.key << 40) + (generation << 20))
        if kind == RAMP:
            return word
        word *= ODD
        word ^= word >> np.uint64(29)
        word *= ODD
        return (word >> np.uint64(56)) * SPREAD & LETTERS | LOWER if kind == TEXT else word

    def write(self) -> None:
        """Write the generation."""
        for start in range(0, self.array.size, PIECE):
            word = self.words(self.generation, start)
            self.array[start : start + word.size] = word

    def verify(self) -> None:
        """Compare every byte."""
        for start in range(0, self.array.size, PIECE):
            word = self.words(self.generation, start)
            found = self.array[start : start + word.size].copy()
            if not np.array_equal(found, word):
                self._verify_torn(start, found, word)

    def _verify_torn(self, start: int, found: Words, word: Words) -> None:
        """Compare with both generations, of a piece that was being written when the process was forked."""
        old = self.words(self.old, start).view(np.uint8)
        bad = (found.view(np.uint8) != word.view(np.uint8)) & (found.view(np.uint8) != old)
        if self.old == self.generation or bad.any():
            at = int((found != word).argmax())
            raise AssertionError(
                f"word {start + at} of {self.array.size}, key {self.key}, generation {self.generation} over "
                f"{self.old}: {found[at]:#x} where {word[at]:#x} must be; {int((found != word).sum())} wrong here"
            )


class Cell:
    """A place for an array. Its content is replaced in one step, so that a forked child always finds it whole."""

    def __init__(self, memory: tmem.Memory, key: int, size: int) -> None:
        self.lock = threading.Lock()
        self.memory = memory
        self.content = Content(memory.zeros(size, "u8"), key, 0, 0)
        self.content.write()

    def verify(self) -> None:
        """Compare every byte of the array."""
        self.content.verify()

    def rewrite(self) -> None:
        """Compare, then write the next generation over it."""
        now = self.content
        now.verify()
        self.content = now._replace(generation=now.generation + 1, old=now.generation)
        self.content.write()
        self.content = self.content._replace(old=now.generation + 1)

    def replace(self, size: int) -> None:
        """Free the array and make another one in its place, with a key of its own."""
        key, generation = self.content.key + KINDS, self.content.generation
        self.content = Content(np.empty(0, np.uint64), key, generation, generation)
        try:
            fresh = Content(self.memory.zeros(size, "u8"), key, generation, generation)
        except MemoryError:
            return  # law 14: nothing new while neither store nor swap device has room
        if fresh.array.any():
            raise AssertionError(f"a new array of {size} words is not zeros")
        fresh.write()
        self.content = fresh

    def pin(self) -> None:
        """Write while the front of the array is pinned."""
        if self.content.array.size == 0:
            return
        with self.memory.pin(self.content.array[:PIECE]):
            self.rewrite()

    def evict(self) -> None:
        """Send it out and compare what comes back."""
        if self.content.array.size > 0:
            self.memory.evict(self.content.array)
        self.content.verify()


class Stress:
    """The cells, the threads, and what went wrong."""

    def __init__(self, memory: tmem.Memory, seed: int, budgets: float) -> None:
        self.memory = memory
        self.seed = seed
        self.failures: list[BaseException] = []
        self.done: Counter[str] = Counter()
        self.cells: list[Cell] = []
        random = default_rng(seed)
        left = int(budgets * memory.ram) // 8
        while left > 0:
            size = int(random.integers(1, LARGEST))
            try:
                self.cells.append(Cell(memory, len(self.cells) * 1000 + len(self.cells) % KINDS, size))
            except MemoryError:
                break  # law 14: store and swap device are full
            left -= size

    def one_thing(self, random: Generator) -> str:
        """Do something to a cell that no other thread has."""
        cell = self.cells[random.integers(len(self.cells))]
        if not cell.lock.acquire(blocking=False):
            return "busy"
        size = cell.content.array.size if random.integers(2) else int(random.integers(1, LARGEST))
        doing: dict[str, Callable[[], None]] = {
            "verify": cell.verify,
            "rewrite": cell.rewrite,
            "pin": cell.pin,
            "evict": cell.evict,
            "replace": lambda: cell.replace(size),
        }
        name = str(random.choice(list(doing), p=[0.3, 0.35, 0.1, 0.1, 0.15]))
        with _released(cell.lock):
            doing[name]()
        return name

    def evict_any(self, random: Generator) -> str:
        """Send out a part of an array that another thread may be using."""
        array = self.cells[random.integers(len(self.cells))].content.array
        start = int(random.integers(array.size + 1))
        if start < array.size:
            self.memory.evict(array[start : start + PIECE])
        return "evict from beside"

    def settle(self, random: Generator) -> str:
        """Pack all that is stored as tightly as can be, while others fault, and look where pages are."""
        self.memory.settle()
        time.sleep(0.01)  # so that there is something to pack again
        array = self.cells[random.integers(len(self.cells))].content.array
        if array.size > 0:
            self.memory.tiers(array)
        return "settle"

    def fork(self, random: Generator) -> str:
        """Let a child verify some of the arrays as they were at the fork, and write to them."""
        chosen = random.choice(len(self.cells), 8, replace=False)
        child = os.fork()
        if child == 0:
            os._exit(self._in_child([self.cells[at].content for at in chosen]))
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise AssertionError(f"a forked child ended with {status}")
        return "fork"

    def _in_child(self, contents: list[Content]) -> int:
        try:
            for content in contents:
                content.verify()
                ours = content._replace(generation=content.generation + 7)
                ours = ours._replace(old=ours.generation)
                ours.write()
                ours.verify()
            self.memory.settle()
            for content in contents:
                content._replace(generation=content.generation + 7, old=content.generation + 7).verify()
            if broken := self.memory.check():
                print(f"in a child: {broken}", file=sys.stderr, flush=True)  # noqa: T201
                return 1
        except BaseException as error:  # noqa: BLE001 - the status tells the parent
            print(f"in a child: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
            return 1
        return 0

    def run(self, seconds: float, threads: int) -> None:
        """Let so many threads and those beside them go on for so long, or until one fails."""
        ending = time.monotonic() + seconds

        def repeat(act: Callable[[Generator], str], number: int) -> None:
            random = default_rng([self.seed, number])
            try:
                while time.monotonic() < ending and not self.failures:
                    self.done[act(random)] += 1
            except BaseException as error:  # noqa: BLE001 - told by the thread that waits
                self.failures.append(error)

        acts = [self.one_thing] * threads + [self.evict_any, self.fork, self.settle]
        running = [threading.Thread(target=repeat, args=(act, number)) for number, act in enumerate(acts)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        if self.failures:
            raise self.failures[0]
        for cell in self.cells:
            cell.verify()


@contextmanager
def _released(lock: threading.Lock) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()


def become_nobody() -> None:
    """Give up root and every capability, as a login of an ordinary user has none."""
    tmem.Memory  # noqa: B018 - imported while the files can be read
    os.chdir("/tmp")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # /proc/self belongs to the user again


def main(arguments: dict[str, Any]) -> None:
    """Stress a Memory, then walk its tables."""
    if arguments["nobody"]:
        become_nobody()
    if not arguments["small"]:
        warnings.simplefilter("error", tmem.TmemWarning)
    memory = tmem.Memory(
        arguments["budget"], faults=arguments["entry"], swap=arguments["swap"], dedup=arguments["dedup"]
    )
    stress = Stress(memory, arguments["seed"], arguments["budgets"])
    stress.run(arguments["seconds"], arguments["threads"])
    told = {"done": stress.done, "broken": memory.check(), "stats": dataclasses.asdict(memory.stats())}
    print(json.dumps(told))  # noqa: T201


main(json.loads(sys.argv[1]))
