# SPDX-License-Identifier: Apache-2.0
"""The tables of what a stored page takes, made from the committed result of `tmem bench --footprint`.

Owns: which of its figures are shown. Called by tools.performance. What was not measured is a dash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tmem.bench.footrows import STATES, p99_ratio
from tmem.bench.tables import number

RESULT = Path(__file__).resolve().parents[2] / "benches/results/footprint.json"

Row = dict[str, Any]
_HELD = {True: "held", False: "**not held**", None: "-"}


def read(path: Path = RESULT) -> list[Row]:
    """Return the committed rows; none where nothing is committed."""
    if not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def tables(rows: list[Row], names: Iterable[str], table: Callable[..., str]) -> str:
    """Return both tables, a line for each data set of `names`: the bytes with their verdict, and the faults."""
    found = {row["data"]: row for row in rows}
    names = list(names)
    head = (
        "bytes a stored page",
        "ours, warm",
        "ours, cold",
        "zram lz4",
        "zram zstd",
        "cold / lz4",
        "at most",
        "verdict",
    )
    made = [table(head, ((name, *_bytes(found.get(name))) for name in names))]
    for state, words in STATES.items():
        columns = (f"a cold fault, {words}, µs", "ours p50", "zram p50", "ours p99", "zram p99", "p99 ours / zram")
        made.append(table(columns, ((name, *_faults(found.get(name), state)) for name in names)))
    return "\n\n".join(made)


def _bytes(row: Row | None) -> tuple[str, ...]:
    if row is None:
        return ("-",) * 7
    peers = (number(row["peers"].get(peer, {}).get("each")) for peer in ("lz4", "zstd"))
    said = next((each for each in row["verdicts"] if each["what"] == "bytes of a same-filled page"), row["verdicts"][0])
    limit = f"{said['limit']:g} bytes" if "same-filled" in said["what"] else f"{said['limit']:g}"
    ratio = row.get("ratio_lz4")
    figures = (number(row["warm_bytes"]), number(row["cold_bytes"]), *peers, f"{ratio:.3f}" if ratio else "-")
    return (*figures, limit, _HELD[said["held"]])


def _faults(row: Row | None, state: str) -> tuple[str, ...]:
    if row is None:
        return ("-",) * 5
    sides = (row["ours"][state], row["peers"].get("lz4", {}).get(state, {}))
    times = (number(side.get(f"{name}_ns"), 1e3) for name in ("p50", "p99") for side in sides)
    return (*times, number(p99_ratio(row, state)))
