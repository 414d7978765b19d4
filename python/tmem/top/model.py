# SPDX-License-Identifier: Apache-2.0
"""What top shows, as numbers: rows of guests with rates from two readings, sorted and filtered.

Owns: the rates, the orders. Called by looks, feed, app and cli.top. Calls operator for the rows it reads. Pure.
Law: a rate is of one and the same guest of one and the same daemon; where no reading of it is old enough, it is what
the daemon says, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tmem.operator import GuestRow, HostRow, Overview

__all__ = ["SORTS", "HostRates", "Reading", "Row", "View", "chosen", "document", "view_of"]

LEAST_SECONDS = 2.5
"""Guests report once a second: over less time than this, one report more or less makes a difference wrong."""

_NS = 1e9


@dataclass(frozen=True, slots=True)
class Reading:
    """What the daemon said, and when: seconds of a clock that does not jump."""

    when: float
    seen: Overview


@dataclass(frozen=True, slots=True)
class Row:
    """One guest, with what it did since the reading before."""

    guest: GuestRow
    faults_s: float = 0.0
    stall: float = 0.0  # seconds that its threads waited for pages, in a second: more than 1 where several did
    refused_s: float = 0.0

    def rated(self) -> GuestRow:
        """Return the guest with these rates in the places of the daemon's."""
        return msgspec.structs.replace(self.guest, faults_s=self.faults_s, stall=self.stall)

    @property
    def refused(self) -> int:
        """How often it was refused, for any reason."""
        return sum(self.guest.refused.values())


@dataclass(frozen=True, slots=True)
class HostRates:
    """What the host did since the reading before, in a second; None where there is no such reading."""

    granted_s: float | None = None
    refused_s: float | None = None
    revoked_s: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """All that is shown at one time."""

    host: HostRow = field(default_factory=HostRow)
    rates: HostRates = field(default_factory=HostRates)
    rows: tuple[Row, ...] = ()
    pools: tuple[Mapping[str, Any], ...] = ()


def view_of(now: Reading, before: Reading | None = None) -> View:
    """Return what to show of a reading, with rates since the one before."""
    if before is None or now.when <= before.when or now.seen.host.since != before.seen.host.since:
        before = None  # no time went by, or another daemon counts anew
    earlier = {} if before is None else {(guest.id, guest.pid): guest for guest in before.seen.guests}
    seconds = 0.0 if before is None else now.when - before.when
    rows = tuple(_row(guest, earlier.get((guest.id, guest.pid)), seconds) for guest in now.seen.guests)
    rates = HostRates() if before is None else _rates(now.seen.host, before.seen.host, seconds)
    return View(now.seen.host, rates, rows, now.seen.pools)


def _row(guest: GuestRow, before: GuestRow | None, seconds: float) -> Row:
    if before is None:
        return Row(guest, guest.faults_s, guest.stall)
    refused = max(0, sum(guest.refused.values()) - sum(before.refused.values())) / seconds
    if seconds < LEAST_SECONDS:
        return Row(guest, guest.faults_s, guest.stall, refused)
    faults = max(0, guest.faults - before.faults) / seconds
    return Row(guest, faults, max(0, guest.fault_ns - before.fault_ns) / _NS / seconds, refused)


def _rates(now: HostRow, before: HostRow, seconds: float) -> HostRates:
    def rate(name: str) -> float:
        return max(0, _counter(now, name) - _counter(before, name)) / seconds

    refused = sum(now.refused.values()) - sum(before.refused.values())
    return HostRates(rate("granted"), max(0, refused) / seconds, rate("revoked"))


def _counter(host: HostRow, name: str) -> int:
    found = host.counters.get(name, 0)
    return found if isinstance(found, int) else 0


SORTS: Mapping[str, tuple[Callable[[Row], Any], bool]] = {
    "lease": (lambda row: row.guest.lease_bytes, True),
    "resident": (lambda row: row.guest.resident, True),
    "store": (lambda row: row.guest.stored_bytes, True),
    "swap": (lambda row: row.guest.swap_bytes, True),
    "faults": (lambda row: row.faults_s, True),
    "stall": (lambda row: row.stall, True),
    "refused": (lambda row: row.refused, True),
    "name": (lambda row: row.guest.name.lower(), False),
    "user": (lambda row: row.guest.owner.lower(), False),
    "pid": (lambda row: row.guest.pid, False),
}
"""The orders: what is compared, and whether the largest comes first."""


def chosen(rows: Iterable[Row], sort: str, text: str = "", *, turned: bool = False) -> list[Row]:
    """Return the rows that have each word of `text` in one of their names, in the order `sort`."""
    words = text.lower().split()
    found = [row for row in rows if all(any(word in name for name in _names(row.guest)) for word in words)]
    found.sort(key=lambda row: row.guest.id)
    value, largest_first = SORTS[sort]
    found.sort(key=value, reverse=largest_first != turned)
    return found


def _names(guest: GuestRow) -> tuple[str, ...]:
    state = ("frozen" if guest.frozen else "", "ballooned" if guest.balloon else "")
    known = (guest.name, guest.owner, guest.cgroup or "", f"id:{guest.id}", f"pid:{guest.pid}", f"user:{guest.owner}")
    return tuple(name.lower() for name in (*known, *state))


def document(view: View, rows: Iterable[Row], seconds: float) -> dict[str, Any]:
    """Return the host and these rows for scripts, with rates of the last `seconds`."""
    guests = [
        msgspec.to_builtins(row.rated()) | {"lease_bytes": row.guest.lease_bytes, "refused_s": row.refused_s}
        for row in rows
    ]
    rates = {name: getattr(view.rates, name) for name in HostRates.__dataclass_fields__}
    host = msgspec.to_builtins(view.host) | rates
    return {"seconds": seconds, "host": host, "guests": guests, "pools": [dict(pool) for pool in view.pools]}
