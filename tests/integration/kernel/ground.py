# SPDX-License-Identifier: Apache-2.0
"""The memory that a case works on: plain memory, or a Memory's whose pages are absent. A case cannot tell which."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import tmem

__all__ = [
    "PAGE",
    "RAM",
    "Bytes",
    "Ground",
    "Paged",
    "Unavailable",
    "become_nobody",
    "call",
    "digest",
    "libc",
    "library",
    "tell",
    "values",
]

PAGE = 4096
RAM = 16 << 20
NOBODY = 65534
PR_SET_DUMPABLE = 4
RECENT = 256
"""More pages than a thread's latest faults, which are no victims of an eviction."""

Bytes = Any
"""An array of bytes. NumPy types no array as a buffer before Python 3.12, and buffers are what all this is about."""
library = ctypes.CDLL(None, use_errno=True)


def import_everything() -> None:
    """Have tmem import what it imports on first use."""
    for name in tmem.__all__:
        getattr(tmem, name)


def become_nobody() -> None:
    """Drop all privilege. What a login does by itself is done by hand: /proc/self belongs to the user."""
    import_everything()  # while the files can be read
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    libc("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)


class Unavailable(Exception):  # noqa: N818 - no error: the machine lacks something, and the case is skipped by name
    """What this machine lacks for a case."""


def tell(line: str) -> None:
    """Say something to the parent, now."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def libc(name: str, *arguments: object) -> int:
    """Call a function of the C library; numbers are passed whole, so addresses may be among them."""
    return int(library[name](*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))


def call(number: int, *arguments: int) -> int:
    """Make a system call and return its answer, or raise its OSError."""
    library.syscall.restype = ctypes.c_long
    answer = libc("syscall", number, *arguments)
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def digest(array: Any) -> tuple[int, str]:
    """Return the size of an array and a digest of every byte of it."""
    return array.nbytes, hashlib.blake2b(np.ascontiguousarray(array).data.cast("B"), digest_size=16).hexdigest()


class Ground:
    """Plain memory."""

    guarded = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def room(self, count: int) -> Bytes:
        """Return an array that nothing was written to yet."""
        return np.zeros(count, "u1")

    def array(self, count: int, seed: int = 1) -> Bytes:
        """Return an array of bytes that differ from page to page, and from seed to seed."""
        made = self.room(count)
        made[:] = values(count, seed)
        return made

    def gone(self, *arrays: Bytes) -> None:
        """Have the pages of these arrays out of RAM."""

    def churn(self) -> None:
        """Use a great deal of other memory, so that whatever may leave RAM does."""


def values(count: int, seed: int) -> Bytes:
    """Return `count` bytes of plain memory that hang on the seed."""
    numbers = np.arange(count // 8 + 1, dtype="u8")
    numbers *= np.uint64(0x9E37_79B1_85EB)
    numbers += np.uint64(seed)
    return numbers.view("u1")[:count]


class Paged(Ground):
    """A Memory of the smallest budget that has begun to page."""

    def __init__(self, folder: Path, entry: str, *, guarded: bool) -> None:
        super().__init__(folder)
        self.guarded = guarded
        self.memory = tmem.Memory(RAM, faults=entry, swap=(folder, 1 << 30))
        self._others = self.memory.empty(2 * RAM, "u1")
        self._others[::PAGE] = 1
        assert self.memory.stats().armed

    def room(self, count: int) -> Bytes:
        return self.memory.empty(count, "u1")

    def gone(self, *arrays: Bytes) -> None:
        self._others[: RECENT * PAGE : PAGE] += np.uint8(1)
        for array in arrays:
            self.memory.evict(array)
            assert present(array) == 0, f"{present(array)} pages stayed in RAM, so the case would show nothing"

    def churn(self) -> None:
        for _ in range(2):
            self._others[::PAGE] += np.uint8(1)


def present(array: Bytes) -> int:
    """Return how many pages of an array the kernel has, without touching one of them."""
    start = array.ctypes.data & -PAGE
    count = -(-(array.ctypes.data + array.nbytes - start) // PAGE)
    there = (ctypes.c_ubyte * count)()
    if libc("mincore", start, count * PAGE, there) != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(flag & 1 for flag in there)
