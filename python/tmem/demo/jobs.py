# SPDX-License-Identifier: Apache-2.0
"""The work: five jobs over the table, the same code whatever memory the arrays live in.

Owns: what is computed. Called by worker. Calls NumPy only.
Law: no job makes a plain temporary that grows with the table. Each goes over the rows in pieces of CHUNK, so that its
temporaries are a few MiB; what is as long as the table is made by the Room, which is what is being measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tmem.demo.recipe import Table

__all__ = ["CHUNK", "JOBS", "Columns", "PlainRoom", "Room", "digest", "load"]

CHUNK = 1 << 14
_MONTHS = 13
_LATE_MINUTES = 60
_FAR_MILES = 1000
_CORRELATED = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "distance", "hour", "month")

Values = npt.NDArray[Any]
Columns = dict[str, Values]


class Room(Protocol):
    """Where arrays are made: a tmem.Memory, or plain NumPy."""

    def empty(self, shape: int, dtype: str) -> Values:
        """Return a new array."""
        ...

    def from_file(self, path: Path, dtype: str) -> Values:
        """Return a new array with the contents of a raw file."""
        ...

    def report(self) -> dict[str, object]:
        """Return what the memory says of itself while the table is in it."""
        ...


class PlainRoom:
    """Arrays as NumPy makes them."""

    def empty(self, shape: int, dtype: str) -> Values:
        """Return a new array."""
        return np.empty(shape, dtype)

    def from_file(self, path: Path, dtype: str) -> Values:
        """Return a new array with the contents of a raw file."""
        return np.fromfile(path, dtype)

    def report(self) -> dict[str, object]:
        """Return nothing: plain memory keeps no counters."""
        return {}


def load(table: Table, room: Room) -> Columns:
    """Read every column from its file."""
    return {column.name: room.from_file(column.path, column.dtype) for column in table.columns}


def select(columns: Columns, room: Room) -> Values:
    """Return the arrival delays of long flights that left late, in the order of the table."""
    result = room.empty(sum(int(np.count_nonzero(_late_and_far(columns, rows))) for rows in _pieces(columns)), "f8")
    done = 0
    for rows in _pieces(columns):
        found = columns["arr_delay"][rows][_late_and_far(columns, rows)]
        result[done : done + found.size] = found
        done += found.size
    return result


def sort(columns: Columns, room: Room) -> Values:
    """Return all arrival delays in rising order; missing ones come last."""
    source = columns["arr_delay"]
    result = room.empty(source.size, "f8")
    for rows in _pieces(columns):
        result[rows] = source[rows]
    result.sort()
    return result


def group(columns: Columns, room: Room) -> Values:  # noqa: ARG001 - a few hundred groups need no room
    """Return, for each carrier and month, the number of flights that arrived and the mean of their delay."""
    groups = _MONTHS * (1 + max(int(columns["carrier"][rows].max()) for rows in _pieces(columns)))
    counts = np.zeros(groups)
    sums = np.zeros(groups)
    for rows in _pieces(columns):
        delay = columns["arr_delay"][rows]
        arrived = ~np.isnan(delay)
        key = (columns["carrier"][rows] * _MONTHS + columns["month"][rows])[arrived]
        counts += np.bincount(key, minlength=groups)
        sums += np.bincount(key, weights=delay[arrived], minlength=groups)
    means = np.divide(sums, counts, out=np.zeros(groups), where=counts > 0)
    return np.concatenate([counts, means])


def correlate(columns: Columns, room: Room) -> Values:  # noqa: ARG001 - the result is a small matrix
    """Return the correlation matrix of eight columns over the flights that have all eight values."""
    size = len(_CORRELATED)
    count = 0
    sums = np.zeros(size)
    products = np.zeros((size, size))
    piece = np.empty((size, CHUNK))
    for rows in _pieces(columns):
        block = piece[:, : rows.stop - rows.start]
        for row, name in enumerate(_CORRELATED):
            block[row] = columns[name][rows]
        whole = block[:, ~np.isnan(block).any(axis=0)]
        count += whole.shape[1]
        sums += whole.sum(axis=1)
        products += whole @ whole.T
    covariance = products / count - np.outer(sums, sums) / count**2
    deviation = np.sqrt(np.diag(covariance))
    result: Values = covariance / np.outer(deviation, deviation)
    return result


JOBS: dict[str, Callable[[Columns, Room], Values]] = {
    "filter": select,
    "sort": sort,
    "group": group,
    "correlate": correlate,
}
"""What is done with the loaded table, in this order."""


def digest(*arrays: Values) -> str:
    """Return the SHA-256 of all bytes of the arrays, as hexadecimal digits."""
    total = hashlib.sha256()
    for array in arrays:
        flat = array.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            total.update(flat[start : start + CHUNK].tobytes())
    return total.hexdigest()


def _pieces(columns: Columns) -> Iterator[slice]:
    rows = len(columns["month"])
    for start in range(0, rows, CHUNK):
        yield slice(start, min(start + CHUNK, rows))


def _late_and_far(columns: Columns, rows: slice) -> npt.NDArray[np.bool_]:
    late: npt.NDArray[np.bool_] = columns["dep_delay"][rows] > _LATE_MINUTES
    late &= columns["distance"][rows] > _FAR_MILES
    return late
