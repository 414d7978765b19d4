# SPDX-License-Identifier: Apache-2.0
"""The footprint's rows as tables: the bytes of a page, what a cold fault costs, and the limits with their verdicts.

Owns: which figures stand where. Called by cli and tools. What was not measured is a dash.
"""

from __future__ import annotations

from tmem.bench.footrows import STATES, Row, p99_ratio
from tmem.bench.tables import Sheet, number

__all__ = ["bytes_sheet", "faults_sheet", "footprint_notes", "footprint_sheets", "limits_sheet"]

_PEERS = ("lz4", "zstd")
_HELD = {True: "held", False: "not held", None: "not measured"}
_NOTHING: Row = {}


def footprint_sheets(rows: list[Row]) -> list[Sheet]:
    """Return all tables."""
    return [bytes_sheet(rows), faults_sheet(rows), limits_sheet(rows)] if rows else []


def bytes_sheet(rows: list[Row]) -> Sheet:
    """Return what a page takes which is out: ours as it leaves and when it is cold, zram's with both algorithms."""
    sheet = Sheet("bytes a stored page", [
        "data", ">pages out", ">same-filled", ">on the swap device",
        ">ours, warm", ">ours, cold", ">of it no packed data", *(f">zram {peer}" for peer in _PEERS),
        ">warm / lz4", *(f">cold / {peer}" for peer in _PEERS), ">pager's tables",
    ])  # fmt: skip
    for row in rows:
        sheet.lines.append([
            row["data"], *(str(row[name]) for name in ("out", "same", "swapped")),
            *(number(row[name]) for name in ("warm_bytes", "cold_bytes", "beside_bytes")),
            *(number(row["peers"].get(peer, _NOTHING).get("each")) for peer in _PEERS),
            *(_ratio(row.get(name)) for name in ("warm_ratio_lz4", "ratio_lz4", "ratio_zstd")),
            number(row["pager_bytes"]),
        ])  # fmt: skip
    return sheet


def faults_sheet(rows: list[Row]) -> Sheet:
    """Return what a fault of a cold page costs, ours and zram's: the median of the rounds, the least and the most."""
    head = [f">{who} {name}" for name in ("p50", "p99") for who in ("ours", "zram lz4")]
    title = "a cold fault at random, µs (least-most)"
    sheet = Sheet(title, ["data", "memory", ">ours, faults", ">zram, faults", *head, ">p99 ours / zram"])
    for row in rows:
        for state, words in STATES.items():
            sides = row["ours"][state], row["peers"].get("lz4", _NOTHING).get(state, _NOTHING)
            sheet.lines.append([
                row["data"], words, *(str(side.get("faults", "-")) for side in sides),
                *(_fault(side, name) for name in ("p50", "p99") for side in sides), _ratio(p99_ratio(row, state)),
            ])  # fmt: skip
    return sheet


def limits_sheet(rows: list[Row]) -> Sheet:
    """Return each limit beside what was measured, and whether it was held."""
    sheet = Sheet("limits", ["data", "what", ">measured", ">at most", "verdict"])
    for row in rows:
        for said in row["verdicts"]:
            sheet.lines.append(
                [row["data"], said["what"], _ratio(said["value"]), f"{said['limit']:g}", _HELD[said["held"]]]
            )
    return sheet


def footprint_notes(rows: list[Row]) -> list[str]:
    """Return what a reader must know of the rows beside their figures."""
    found = []
    for row in rows:
        if row["killed"]:
            found.append(f"zram on {row['data']}: killed by the kernel, for want of memory, {row['killed']} times")
        found += [f"{row['data']}, {reason}" for reason in dict.fromkeys(row["ended"])]
        if row["swapped"]:
            found.append(
                f"{row['data']}: {row['swapped']} pages do not pack and wait on the swap device, counted whole"
            )
        if any(not peer["entry_measured"] for peer in row["peers"].values()):
            found.append(f"{row['data']}: the kernel does not show zram's table, an entry counts as 16 bytes")
    return found


def _fault(said: Row, name: str) -> str:
    spread = said.get(f"{name}_spread")
    return f"{number(said[f'{name}_ns'], 1e3)} ({'-'.join(number(ns, 1e3) for ns in spread)})" if spread else "-"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
