# SPDX-License-Identifier: Apache-2.0
"""The memories of the peers, as a worker makes them.

Owns: how each peer's memory is made in the process that is measured. Called by worker. A kind is `plain` (NumPy's own),
`anonymous` (a mapping, which the kernel is told nothing of, or what `advice` says), `memmap`, `blosc2`, or `tmem`.
"""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tmem.bench.jobs import Place, Plain
from tmem.bench.walk import PAGE
from tmem.memory import Memory

__all__ = ["Paged", "make_place", "make_whole"]

_ADVICE = {"huge": mmap.MADV_HUGEPAGE, "random": mmap.MADV_RANDOM}
_BLOSC_PIECE = 1 << 14

Bytes = npt.NDArray[np.uint8]


class Paged:
    """A tmem.Memory; `ended()` is its own word on what is broken."""

    chunked = False

    def __init__(self, ram: int, faults: str) -> None:
        self.memory = Memory(ram, swap="auto", faults=faults, name="bench")

    def empty(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """Return a new array."""
        return self.memory.empty(shape, dtype)

    def ended(self) -> dict[str, Any]:
        """Return its counters and each broken law."""
        return {"stats": self.memory.stats().as_dict(), "broken": self.memory.check()}


class _Mapped:
    """Arrays over files."""

    chunked = False

    def __init__(self, directory: Path) -> None:
        self._directory, self._numbers = directory, itertools.count()

    def empty(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        path = self._directory / f"array-{next(self._numbers)}"
        array = np.memmap(path, dtype=dtype, mode="w+", shape=shape)
        path.unlink()  # the mapping keeps it
        return array


class _Blosc:
    """Arrays that are always compressed, one thread; everything else as blosc2 chooses it."""

    chunked = True

    def __init__(self) -> None:
        import blosc2  # noqa: PLC0415 - one peer's

        blosc2.set_nthreads(1)
        self._blosc2 = blosc2

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        chunks = (_BLOSC_PIECE,) if len(shape) == 1 else (512, 512)
        return self._blosc2.empty(shape, dtype=np.dtype(dtype), chunks=tuple(map(min, chunks, shape)))


def make_place(spec: dict[str, Any]) -> Place:
    """Return where the jobs' arrays are made."""
    kind = spec["memory"]
    if kind == "tmem":
        return Paged(spec["ram"], spec["entry"])
    if kind == "memmap":
        return _Mapped(Path(spec["directory"]))
    return _Blosc() if kind == "blosc2" else Plain()


def make_whole(spec: dict[str, Any], place: Place) -> Bytes:
    """Return the one memory of `bytes` that is walked, aligned to pages."""
    nbytes = spec["bytes"]
    if spec["memory"] == "anonymous":
        area = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if spec["advice"]:
            area.madvise(_ADVICE[spec["advice"]])
        return np.frombuffer(area, np.uint8)
    if spec["memory"] == "plain":
        room: Bytes = place.empty((nbytes + PAGE,), "u1")
        start = -room.ctypes.data % PAGE
        return room[start : start + nbytes]
    whole: Bytes = place.empty((nbytes,), "u1")
    return whole
