# SPDX-License-Identifier: Apache-2.0
"""What was measured of a data set's footprint, as a row, and whether it is within the limits: for JSON, tables, plot.

Owns: what counts as a stored page's bytes, the limits, and the verdicts. Called by footprint.
A page's bytes, ours, are by the pages that are out:
- `store_bytes` of the Memory's counters: packed bytes and the slack of their size classes, the slab's and the index's
  tables; less what an empty store takes (the codecs' memory), told as `empty_bytes`, as zram's streams are not counted;
- 16 bytes of the pager's table, the hash by which an unchanged page is known, for each page that has data;
- pages that do not pack and wait on the swap device, all 4096 bytes as if that were memory, and the device's tables.
The rest of the pager's table is what the kernel has in page tables and swap maps: neither is counted, and ours is told
whole as `pager_bytes`. zram's bytes are `mem_used_total` and its table (zramstore).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from tmem.bench.measure import Run
from tmem.bench.walk import PAGE
from tmem.bench.zramstore import ZramBytes

__all__ = [
    "ALWAYS", "HASH", "MAIN_LIMIT", "OTHERS_LIMIT", "SAME_LIMIT", "STATES", "Row", "each", "footprint_row", "p99_ratio",
    "run_name", "verdicts",
]  # fmt: skip

HASH = 16
"""Bytes of the hash by which the pager knows an unchanged page (`Meta::hash`, crates/tmem-pager/src/state.rs)."""

MAIN = ("heap", "flights")
MAIN_LIMIT = 0.75
OTHERS_LIMIT = 0.9
ALWAYS = 1.02
SAME_LIMIT = 16.0
_PACKS = 7 / 8 * PAGE  # what takes more does not compress

STATES = {"roomy": "with room", "pressed": "a quarter resident"}
"""In which memory cold faults are timed, in words: nothing must leave for a page, or a page must for each."""

Row = dict[str, Any]
Step = dict[str, Any]


def footprint_row(data: str, nbytes: int, rounds: list[dict[str, Run]], stores: dict[str, ZramBytes]) -> Row:
    """Return the row of a data set: medians of the rounds, with their spread. The peers are those of `stores`."""
    ours = [runs[run_name("ours", "roomy")] for runs in rounds]
    last = ours[-1].steps.get("cold", {})
    row: Row = {
        "data": data,
        "bytes": nbytes,
        "pages": nbytes // PAGE,
        "out": _out(last),
        "same": last.get("store_same", 0),
        "swapped": last.get("swap_used", 0) // PAGE,
        "warm_bytes": _median(each(run, "warm") for run in ours),
        "cold_bytes": _median(each(run, "cold") for run in ours),
        "cold_spread": _spread(each(run, "cold") for run in ours),
        "recoded": last.get("store_cold", 0),
        "beside_bytes": _median(_beside(run) for run in ours),
        "pager_bytes": _median(_pager(run, nbytes // PAGE) for run in ours),
        "empty_bytes": ours[-1].steps.get("new", {}).get("store_bytes"),
        "settled_seconds": _median(run.steps.get("cold", {}).get("waited", 0.0) for run in ours),
        "ours": _states(rounds, "ours"),
        "peers": {peer: store.as_dict() | _states(rounds, peer) for peer, store in stores.items()},
        "verified": all(not run.ended for runs in rounds for run in runs.values()),
        "ended": [f"{name}: {run.ended}" for runs in rounds for name, run in runs.items() if run.ended],
        "killed": sum(run.killed for runs in rounds for run in runs.values()),
        "rounds": [{name: run.steps for name, run in runs.items()} for runs in rounds],
    }
    for name, peer in row["peers"].items():
        row[f"ratio_{name}"] = row["cold_bytes"] / peer["each"] if row["cold_bytes"] else None
        row[f"warm_ratio_{name}"] = row["warm_bytes"] / peer["each"] if row["warm_bytes"] else None
    return row | {"verdicts": verdicts(row)}


def run_name(who: str, state: str) -> str:
    """Return the name of a run in its round."""
    return f"{who} {state}"


def each(run: Run, when: str) -> float | None:
    """Return the bytes that a page takes which is out, `warm` or `cold`; None where the run did not come so far."""
    now, filled, new = (run.steps.get(step, {}) for step in (when, "filled", "new"))
    out = _out(now)
    if not out:
        return None
    swap = now["swap_used"] + max(0, now["metadata"] - filled["metadata"])  # it grows by the swap device's tables
    whole: float = now["store_bytes"] - new["store_bytes"] + swap + HASH * (out - now["store_same"])
    return whole / out


def verdicts(row: Row) -> list[dict[str, Any]]:
    """Return each limit with what was measured: `held` is true, false, or None where there is no zram to compare."""
    peer = row["peers"].get("lz4", {})
    same = row["same"] == row["out"] > 0
    packs = min(row["cold_bytes"] or PAGE, peer.get("each", PAGE)) <= _PACKS
    limit = MAIN_LIMIT if row["data"] in MAIN else OTHERS_LIMIT if packs and not same else ALWAYS
    made = [_verdict("bytes cold / zram lz4", row.get("ratio_lz4"), limit)]
    made.append(_verdict("bytes warm / zram lz4", row.get("warm_ratio_lz4"), ALWAYS))
    if same:
        made.append(_verdict("bytes of a same-filled page", row["cold_bytes"], SAME_LIMIT))
    for state, words in STATES.items():
        made.append(_verdict(f"p99 of a cold fault / zram lz4, {words}", p99_ratio(row, state), 1.0))
    return made


def p99_ratio(row: Row, state: str) -> float | None:
    """Return p99 of our cold faults / that of zram lz4 in one of the STATES; None where either was not measured."""
    ours, theirs = row["ours"][state].get("p99_ns"), row["peers"].get("lz4", {}).get(state, {}).get("p99_ns")
    return ours / theirs if ours and theirs else None


def _verdict(what: str, value: float | None, limit: float) -> dict[str, Any]:
    return {"what": what, "value": value, "limit": limit, "held": None if value is None else value <= limit}


def _out(step: Step) -> int:
    """Return how many pages are in the store or on the swap device."""
    return int(step.get("store_pages", 0) + step.get("swap_used", 0) // PAGE)


def _beside(run: Run) -> float | None:
    """Return what of a cold page's bytes is not its packed data."""
    cold, whole = run.steps.get("cold", {}), each(run, "cold")
    return None if whole is None else whole - (cold["store_data"] + cold["swap_used"]) / _out(cold)


def _pager(run: Run, pages: int) -> float | None:
    """Return the bytes of the pager's tables for a page, the hash among them."""
    new, filled = run.steps.get("new"), run.steps.get("filled")
    return (filled["metadata"] - new["metadata"]) / pages if new and filled else None


def _states(rounds: list[dict[str, Run]], who: str) -> Row:
    return {state: _faults(runs[run_name(who, state)] for runs in rounds) for state in STATES}


def _faults(runs: Iterable[Run]) -> Row:
    """Return how long cold faults took: the median of the rounds, the least and the most."""
    told = [run.steps["faults"] for run in runs if run.steps.get("faults", {}).get("latency_ns")]
    row: Row = {"faults": min((said["waited"] for said in told), default=0)}
    for name in ("p50", "p99"):
        values = [said["latency_ns"][name] for said in told]
        row |= {f"{name}_ns": _median(values), f"{name}_spread": _spread(values)}
    return row


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None


def _spread(values: Iterable[float | None]) -> list[float] | None:
    found = [value for value in values if value is not None]
    return [min(found), max(found)] if found else None
