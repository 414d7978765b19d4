# SPDX-License-Identifier: Apache-2.0
"""The tables of the host: what a lease costs, and what selfish guests settle at, from the committed results.

Owns: which figures of benches/leases.py and benches/selfish.py are shown. Called by tools.performance.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
Table = Callable[[Iterable[str], Iterable[Iterable[str]]], str]
_WAYS = {
    "free": "the host's free memory",
    "ephemeral": "another guest's ephemeral leases",
    "persistent": "another guest's persistent leases",
    "balloon": "another guest's balloon (policy `balloon`)",
}


def _ms(us: float) -> str:
    return f"{us / 1e3:.2f}"


def _span(values: Iterable[float], form: str = ".2f") -> str:
    found = list(values)
    return f"{statistics.median(found):{form}} ({min(found):{form}}-{max(found):{form}})"


def leases(result: Row, table: Table) -> str:
    """Return round trips, fills and revocations."""
    trips = [
        (str(row["guests"]), _ms(row["alone"]["p50_us"]), _ms(row["alone"]["p99_us"]), _ms(row["burst"]["p50_us"]))
        for row in result["round_trips"]
    ]
    own = result["allocation"]
    trips.append(("the allocation alone", _ms(own["p50_us"]), _ms(own["p99_us"]), "-"))
    fills = [
        (
            {"pool": "persistent pool", "memory": "arrays"}[row["what"]],
            _span(row["leased_s"]),
            _span(row["embedded_s"]),
            f"{row['ratio']:.3f} ({row['spread'][0]:.2f}-{row['spread'][1]:.2f})",
        )
        for row in result["fills"]
    ]
    ends = [
        ("stopped (SIGSTOP)" if row["stopped"] else "running", _span([1e3 * s for s in row["seconds"]], ".0f"))
        for row in result["revocation"]
    ]
    return "\n\n".join(
        (
            table(("guests connected", "p50, ms", "p99, ms", "all ask at once: p50, ms"), trips),
            table(("1 GiB of pages into", "over leases, s", "embedded, s", "ratio"), fills),
            table(("1 GiB of ephemeral leases taken from a guest that is", "ms"), ends),
        )
    )


def selfish(result: Row, table: Table) -> str:
    """Return shares, who gives way, and how long the needy wait."""
    hogs = [
        (
            str(n),
            *(f"{one['held_mib'][name]:.0f} of {share:.0f}" for name, share in one["shares_mib"].items()),
            "never" if one["settled_s"] is None else f"{one['settled_s']:.1f}",
            f"{one['most_after_cap_mib']:.0f} of {one['cap_mib']:.0f}",
        )
        for n, one in enumerate(result["weights"], 1)
    ]
    policies: dict[str, list[Row]] = {}
    for row in result["idle"]:
        policies.setdefault(row["policy"], []).append(row)
    ways = [
        (name, _span((r["sleeper_mib"] for r in rows), ".0f"), _span((r["worker_mib"] for r in rows), ".0f"))
        for name, rows in policies.items()
    ]
    needy = [(_WAYS[row["from"]], _span(row["seconds"])) for row in result["needy"]]
    return "\n\n".join(
        (
            table(("run", "weight 1, MiB", "weight 2", "weight 4", "settled after, s", "most under its cap"), hogs),
            table(("policy", "who sleeps keeps, MiB", "who works gets, MiB"), ways),
            table(("32 MiB more, from", "wait, s"), needy),
        )
    )
