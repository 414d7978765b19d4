# SPDX-License-Identifier: Apache-2.0
"""The footprint's rows as a picture: bytes of a stored page, and cold faults' times, ours beside zram's.

Owns: its looks, with plot's colours. Called by cli.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tmem.bench.footrows import STATES, Row
from tmem.bench.plot import COLOURS, HATCHES
from tmem.bench.walk import PAGE

__all__ = ["draw_footprint"]

_PEERS = ("lz4", "zstd")

Bar = tuple[str, list[float], list[tuple[float, float]]]
"""A label, a figure for each data set (0 where there is none), and how far its spread reaches below and above."""


def draw_footprint(rows: list[Row], path: Path) -> None:
    """Write a PNG: a panel of bytes, and one of times for each of the STATES."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second that no other run should wait for

    peers = [peer for peer in _PEERS if any(peer in row["peers"] for row in rows)]
    figure = Figure(figsize=(9, 3.6 + 1.6 * len(rows)), layout="constrained")
    above, *below = figure.subplots(1 + len(STATES), 1)
    _panel(above, rows, [
        ("ours, warm", [row["warm_bytes"] or 0 for row in rows], []),
        ("ours, cold", [row["cold_bytes"] or 0 for row in rows], []),
        *((f"zram {peer}", [row["peers"].get(peer, {}).get("each", 0) for row in rows], []) for peer in peers),
    ])  # fmt: skip
    above.axvline(PAGE, color="black", linewidth=1)
    above.set_xlabel("bytes a stored page, tables counted; the line is a page")
    for axis, (state, words) in zip(below, STATES.items(), strict=True):
        theirs = [
            _faults(f"zram {peer}", [row["peers"].get(peer, {}).get(state, {}) for row in rows]) for peer in peers
        ]
        _panel(axis, rows, [_faults("ours", [row["ours"][state] for row in rows]), *theirs])
        axis.set_xscale("log")
        axis.set_xlim(left=1)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(f"p99 of a cold fault at random, {words}, µs (least and most of the rounds)")
    figure.savefig(path, format="png", dpi=120)


def _faults(label: str, sides: list[Row]) -> Bar:
    values = [(side.get("p99_ns") or 0) / 1e3 for side in sides]
    reach = []
    for side, value in zip(sides, values, strict=True):
        least, most = side.get("p99_spread") or (value * 1e3, value * 1e3)
        reach.append((max(0.0, value - least / 1e3), max(0.0, most / 1e3 - value)))
    return label, values, reach


def _panel(axis: Any, rows: list[Row], bars: list[Bar]) -> None:
    height = 0.8 / len(bars)
    for number, (label, values, reach) in enumerate(bars):
        at = [line + (number - (len(bars) - 1) / 2) * height for line in range(len(rows))]
        axis.barh(
            at, values, height=height * 0.92, label=label,
            color=COLOURS[number], hatch=HATCHES[number], edgecolor="white",
            xerr=list(zip(*reach, strict=True)) if reach else None, error_kw={"elinewidth": 1, "capsize": 2},
        )  # fmt: skip
    axis.set_yticks(range(len(rows)), [row["data"] for row in rows])
    axis.invert_yaxis()
    axis.grid(visible=True, axis="x", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
