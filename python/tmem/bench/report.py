# SPDX-License-Identifier: Apache-2.0
"""What was measured, as rows: the same for JSON, tables and the plot.

Owns: ratios, medians and spreads. Called by cli, plot and tables. No figure is made here that was not measured: a peer
that did not come to a step has none, and says why.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from tmem.bench.measure import Measured, Run
from tmem.bench.patterns import PATTERNS
from tmem.bench.peers import PEERS
from tmem.bench.plan import JOB_STEPS

__all__ = ["STEPS", "Row", "geometric", "rows_of"]

STEPS = (*PATTERNS, *JOB_STEPS)
_SMALLEST = 0.01  # of plain memory's time: a smaller difference to it is noise, and counts as that much

Row = dict[str, Any]


def rows_of(measured: Measured) -> list[Row]:
    """Return a row for each step, entry and peer of a cell."""
    cell = measured.cell
    return [_row(measured, step, entry, peer) for step in cell.steps for entry in cell.entries for peer in cell.peers]


def geometric(values: Iterable[float | None]) -> float | None:
    """Return the geometric mean of those that are there; None where none is."""
    found = [value for value in values if value]
    return math.exp(sum(map(math.log, found)) / len(found)) if found else None


def _row(measured: Measured, step: str, entry: str, peer: str) -> Row:
    cell = measured.cell
    budget = PEERS[peer].budget or cell.budgets()[0]
    pairs = [(runs[f"{entry}@{budget}"], runs[peer]) for runs in measured.rounds]
    ours, theirs = [_ns(run, step) for run, _ in pairs], [_ns(run, step) for _, run in pairs]
    ratios = [b / a for a, b in zip(ours, theirs, strict=True) if a and b]
    cpu = [
        _ns(b, step, "cpu_seconds") / _ns(a, step, "cpu_seconds") for a, b in pairs if _cpu(a, step) and _cpu(b, step)
    ]
    row = {
        "data": cell.data,
        "pattern": step,
        "residency": cell.residency,
        "entry": entry,
        "threads": cell.threads,
        "peer": peer,
        "ours_ns": _median(ours),
        "peer_ns": _median(theirs),
        "ratio": _median(ratios),
        "spread": [min(ratios), max(ratios)] if ratios else None,
        "cpu_ratio": _median(cpu),
        "memory_ours": max(run.peak for run, _ in pairs),
        "memory_peer": max(run.memory for _, run in pairs),
        "budget_ours": max(run.budget for run, _ in pairs),
        "verified": all(not run.ended for pair in pairs for run in pair),
        "ended": [run.ended for _, run in pairs if run.ended] + [f"ours: {run.ended}" for run, _ in pairs if run.ended],
        "killed": sum(run.killed for _, run in pairs),
        "not_there": next((run.steps[step]["not_there"] for _, run in pairs if "not_there" in _step(run, step)), ""),
        "latency_ours_ns": _latency([run for run, _ in pairs], step),
        "latency_peer_ns": _latency([run for _, run in pairs], step),
        "cpu_ours_ns": _median([_ns(run, step, "cpu_seconds") for run, _ in pairs]),
        "cpu_peer_ns": _median([_ns(run, step, "cpu_seconds") for _, run in pairs]),
        "rounds": [{"ours_ns": a, "peer_ns": b} for a, b in zip(ours, theirs, strict=True)],
        "bytes": cell.nbytes,
    }  # fmt: skip
    if step.startswith("job:"):
        row["overhead_ratio"] = _overhead(measured, step, ours, theirs) if peer != "plain" else None
    return row


def _overhead(measured: Measured, step: str, ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the median over the rounds of (theirs - plain) / (ours - plain)."""
    found = []
    for runs, our, their in zip(measured.rounds, ours, theirs, strict=True):
        plain = _ns(runs["plain"], step) if "plain" in runs else 0.0
        if plain and our and their:
            least = _SMALLEST * plain
            found.append(max(their - plain, least) / max(our - plain, least))
    return _median(found)


def _step(run: Run, step: str) -> dict[str, Any]:
    return run.steps.get(step, {})


def _ns(run: Run, step: str, what: str = "seconds") -> float:
    """Return nanoseconds an access, of a job in all; 0 where the run did not come so far."""
    said = _step(run, step)
    return said[what] * 1e9 / said.get("accesses", 1) if what in said else 0.0


def _cpu(run: Run, step: str) -> bool:
    return _ns(run, step, "cpu_seconds") > 0


def _median(values: Iterable[float]) -> float | None:
    found = [value for value in values if value]
    return statistics.median(found) if found else None


def _latency(runs: Iterable[Run], step: str) -> dict[str, float]:
    """Return the percentiles of waiting, the median of the rounds; of the longest wait the longest."""
    told = [said["latency_ns"] for run in runs if (said := _step(run, step)).get("latency_ns")]
    if not told:
        return {}
    made = {name: statistics.median(each[name] for each in told) for name in told[0]}
    return made | {"max": max(each["max"] for each in told)}
