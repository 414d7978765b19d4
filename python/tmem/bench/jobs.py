# SPDX-License-Identifier: Apache-2.0
"""Whole jobs over arrays that live in a peer's memory: the same code for every peer.

Owns: what each job computes. Called by worker. Calls NumPy and pandas, on memory that a Place makes.
Law: no job makes a plain temporary that grows with its arrays. Each goes in pieces, so that what is measured is the
memory of the Place; np.sort and np.cumsum work in place and into a place. All arrays of a job together are as large as
the data set.
A Place whose arrays are not NumPy's own (blosc2) is read and written in pieces, which is its interface.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tmem.bench.walk import used_cpu

__all__ = ["JOBS", "JobData", "NotThere", "Place", "Plain", "Timed", "run_job"]

_PIECE = 1 << 14
_BLOCK = 512
_SAMPLE = 97
_GROUPS_SHIFT = np.uint64(56)  # 256 groups
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Values = npt.NDArray[Any]


class NotThere(Exception):  # noqa: N818 - no error: an answer
    """A peer has no such job."""


class Place(Protocol):
    """Where arrays are made."""

    chunked: bool
    """Whether its arrays are no NumPy arrays: they are sliced, and slices assigned, nothing else."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return a new array."""
        ...


class Plain:
    """Arrays as NumPy makes them."""

    chunked = False

    def empty(self, shape: tuple[int, ...], dtype: str) -> Values:
        """Return a new array."""
        return np.empty(shape, dtype)


@dataclass(frozen=True, slots=True)
class JobData:
    """A data set as jobs see it: columns of numbers over its bytes; `table` says that they are a table's."""

    source: npt.NDArray[np.uint8]
    columns: tuple[tuple[str, int, int], ...]
    table: bool

    @property
    def dtype(self) -> str:
        """The type of all numbers in one: float64 where any column is, else int64."""
        return "f8" if any(np.dtype(kind).kind == "f" for kind, _, _ in self.columns) else "i8"

    def column(self, number: int) -> Values:
        """Return one column, a view."""
        kind, start, rows = self.columns[number]
        return self.source[start : start + 8 * rows].view(kind)

    def numbers(self, count: int) -> Iterator[tuple[int, Values]]:
        """Yield the first `count` numbers, column after column, in pieces with their positions.

        A table's missing values are 0 here.
        """
        done = 0
        for number in range(len(self.columns)):
            column = self.column(number)[: count - done]
            for start in range(0, column.size, _PIECE):
                piece = column[start : start + _PIECE].astype(self.dtype)
                yield done + start, np.nan_to_num(piece, copy=False) if self.dtype == "f8" else piece
            done += column.size

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(rows for _, _, rows in self.columns)


@dataclass(frozen=True, slots=True)
class Timed:
    """What a job took, without filling its arrays and without checking, and a digest of its result."""

    seconds: float
    cpu_seconds: float
    digest: str


def run_job(name: str, data: JobData, place: Place) -> Timed:
    """Fill the job's arrays, run it, and look at its result. NotThere where the place cannot do it."""
    work = JOBS[name](data, place)
    cpu, wall = used_cpu(), time.perf_counter()
    result = work()
    wall, cpu = time.perf_counter() - wall, used_cpu() - cpu
    return Timed(wall, cpu, _digest(result))


def _sort(data: JobData, place: Place) -> Callable[[], Any]:
    if place.chunked:
        raise NotThere("it has no sort")
    array = _filled(data, place, data.count)

    def work() -> Any:
        array.sort()
        return array

    return work


def _cumsum(data: JobData, place: Place) -> Callable[[], Any]:
    count = data.count // 2
    array, result = _filled(data, place, count), place.empty((count,), data.dtype)

    def work() -> Any:
        if not place.chunked:
            return np.cumsum(array, out=result)
        last = 0
        for rows in _pieces(count):
            part = array[rows]
            part[0] += last
            np.cumsum(part, out=part)
            result[rows] = part
            last = part[-1]
        return result

    return work


def _filter(data: JobData, place: Place) -> Callable[[], Any]:
    count = data.count * 2 // 3  # half of them are kept
    array, result = _filled(data, place, count), place.empty((count,), data.dtype)
    middle = np.median(np.concatenate([piece[::_SAMPLE].copy() for _, piece in data.numbers(count)]))

    def work() -> Any:
        done = 0
        for rows in _pieces(count):
            part = array[rows]
            kept = part[part > middle]
            result[done : done + kept.size] = kept
            done += kept.size
        return (result, done)

    return work


def _matmul(data: JobData, place: Place) -> Callable[[], Any]:
    side = max(_BLOCK, int((data.count / 3) ** 0.5) // _BLOCK * _BLOCK)
    left, right, result = (place.empty((side, side), "f8") for _ in range(3))
    for target in (left, right):
        for row, values in _rows(
            data, side, _BLOCK if place.chunked else 1
        ):  # by row, a chunk would be packed 512 times
            target[row : row + len(values)] = values

    def work() -> Any:
        blocks = [slice(start, min(start + _BLOCK, side)) for start in range(0, side, _BLOCK)]
        for rows in blocks:
            for columns in blocks:
                total = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
                for inner in blocks:
                    total += left[rows, inner] @ right[inner, columns]
                result[rows, columns] = total
        return result

    return work


def _groupby(data: JobData, place: Place) -> Callable[[], Any]:
    import pandas as pd  # noqa: PLC0415 - half a second that no other job should wait for

    columns = []
    for number, (kind, _, rows) in enumerate(data.columns):
        columns.append(place.empty((rows,), kind))
        for part in _pieces(rows):
            columns[-1][part] = data.column(number)[part]

    def work() -> Any:
        total = None
        for rows in _pieces(data.columns[0][2]):
            frame = pd.DataFrame({f"c{n}": column[rows] for n, column in enumerate(columns)}, copy=False)
            key = frame.pop(f"c{len(columns) - 1}" if data.table else "c0").to_numpy()
            groups = key if data.table else (key.view(np.uint64) * _GOLDEN) >> _GROUPS_SHIFT
            found = frame.groupby(groups).sum()
            total = found if total is None else total.add(found, fill_value=0)
        return np.zeros(0) if total is None else total.sort_index().to_numpy()

    return work


JOBS: dict[str, Callable[[JobData, Place], Callable[[], Any]]] = {
    "sort": _sort,
    "cumsum": _cumsum,
    "matmul": _matmul,
    "groupby": _groupby,
    "filter": _filter,
}
"""Each fills its arrays and returns the work that is timed."""


def _filled(data: JobData, place: Place, count: int) -> Any:
    array = place.empty((count,), data.dtype)
    for start, piece in data.numbers(count):
        array[start : start + piece.size] = piece
    return array


def _rows(data: JobData, side: int, step: int) -> Iterator[tuple[int, Values]]:
    """Yield `step` rows at a time of a matrix of the first numbers, from the beginning again where they end."""
    row, rest, wanted = 0, np.empty(0), side * step
    while True:
        for _, piece in data.numbers(data.count):
            rest = np.concatenate([rest, piece.astype("f8")])
            while rest.size >= wanted:
                yield row, rest[:wanted].reshape(-1, side)
                rest, row = rest[wanted:], row + step
                if row >= side:
                    return
                wanted = side * min(step, side - row)


def _pieces(count: int) -> Iterator[slice]:
    for start in range(0, count, _PIECE):
        yield slice(start, min(start + _PIECE, count))


def _digest(result: Any) -> str:
    """Return a checksum of all bytes of a result: an array, or one and how much of it counts."""
    array, count = result if isinstance(result, tuple) else (result, result.shape[0])
    step = max(1, _PIECE * 8 // max(1, math.prod(array.shape[1:])))
    total = 0
    for start in range(0, count, step):
        total = zlib.crc32(np.ascontiguousarray(array[start : min(start + step, count)]).data, total)
    return f"{count}:{total:08x}"
