# SPDX-License-Identifier: Apache-2.0
"""The rows as a picture: for each pattern a bar for each peer, on a logarithmic axis.

Owns: its looks. Called by cli.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tmem.bench.report import STEPS, Row, geometric
from tmem.bench.tables import case_words
from tmem.errors import TmemError

__all__ = ["COLOURS", "HATCHES", "draw", "plot_missing"]

# Okabe and Ito's colours, which colour-blind readers can tell apart; hatches for those who see none.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")


def plot_missing() -> str:
    """Return why nothing can be drawn; nothing where it can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "a plot needs matplotlib: pip install 'tmem[bench]'"
    return ""


def draw(rows: list[Row], path: Path) -> None:
    """Write a PNG: a panel for each residency, entry and number of threads. TmemError without a ratio."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second that no other run should wait for

    rows = [row for row in rows if row["ratio"] and row["peer"] != "plain"]
    if not rows:
        raise TmemError("no peer but plain memory was measured, so there is no ratio to draw: see the skipped ones")
    cases = list(dict.fromkeys((row["residency"], row["entry"], row["threads"]) for row in rows))
    parts = [[row for row in rows if (row["residency"], row["entry"], row["threads"]) == case] for case in cases]
    heights = [1.2 + 0.2 * len({(row["pattern"], row["peer"]) for row in part}) for part in parts]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(cases), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, case, part in zip(axes, cases, parts, strict=True):
        _panel(axis, case_words(case), part)
    sets = ", ".join(dict.fromkeys(row["data"] for row in rows))
    figure.suptitle(f"Their time / ours, same data, same total memory\n({sets}: geometric mean, least and most)")
    figure.savefig(path, format="png", dpi=120)


def _panel(axis: Any, title: str, rows: list[Row]) -> None:
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    steps = [step for step in STEPS if any(row["pattern"] == step for row in rows)]
    there = [[peer for peer in peers if _of(rows, step, peer)] for step in steps]
    width = 0.8 / max(map(len, there))
    for number, peer in enumerate(peers):
        at, lengths, below, above = [], [], [], []
        for line, step in enumerate(steps):
            mine = _of(rows, step, peer)
            mean = geometric(row["ratio"] for row in mine)
            if mean is None:
                continue
            at.append(line + (there[line].index(peer) - (len(there[line]) - 1) / 2) * width)
            lengths.append(mean)
            below.append(max(0.0, mean - min(row["spread"][0] for row in mine)))
            above.append(max(0.0, max(row["spread"][1] for row in mine) - mean))
        axis.barh(
            at, [length - 1 for length in lengths], left=1, height=width * 0.92, label=peer, xerr=[below, above],
            color=COLOURS[number % len(COLOURS)], edgecolor="white",
            hatch=HATCHES[(number + number // len(COLOURS)) % len(HATCHES)],
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#444444"},
        )  # fmt: skip
    _dress(axis, title, steps)


def _of(rows: list[Row], step: str, peer: str) -> list[Row]:
    return [row for row in rows if row["peer"] == peer and row["pattern"] == step]


def _dress(axis: Any, title: str, steps: list[str]) -> None:
    """Give the panel its axis, its line of equality and its names."""
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks(range(len(steps)), steps)
    axis.invert_yaxis()
    axis.set_title(title, fontsize="medium", loc="left")
    axis.set_xlabel("left of 1: they are faster; right of it: tmem is")
    axis.grid(visible=True, axis="x", which="both", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(_minor)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)


def _minor(value: float, _position: int) -> str:
    """Return a label for the twos and fives between the powers of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
