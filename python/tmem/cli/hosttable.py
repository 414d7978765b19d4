# SPDX-License-Identifier: Apache-2.0
"""How the daemon's host and guests look as lines of text.

Owns: the two lines of the host, the columns of the guests. Called by list, and by top where it has no screen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rich.markup import escape

from tmem.cli.render import console, table
from tmem.operator import GuestRow, HostRow
from tmem.units import format_size

__all__ = ["age", "show_guests", "show_host"]


def show_host(host: HostRow) -> None:
    """Print the host in two lines."""
    guests, pools = _count(host.guests, "guest"), _count(host.pools, "shared pool")
    since = f", up {age(time.time() - host.since)}" if host.since else ""
    said = f"policy {host.policy}, {guests}, {pools}, pressure {host.pressure:.0%}{since}"
    sizes = f"{format_size(host.leased_bytes)} of {format_size(host.capacity)} leased"
    rest = f"{format_size(host.free_bytes)} free, {format_size(host.freeable_bytes)} freeable"
    if host.reserved_bytes:
        rest += f", {format_size(host.reserved_bytes)} awaited with guests of the last daemon"
    for line in (said, f"{sizes}, {rest}"):
        console().print(line, markup=False, soft_wrap=True)


def show_guests(guests: Iterable[GuestRow]) -> None:
    """Print one line a guest; a narrow terminal gets the columns that matter most."""
    out = console()
    columns = _COLUMNS if out.width >= _ROOM else tuple(one for one in _COLUMNS if one.heading in _MATTER)
    shown = table(*(one.heading for one in columns))
    for guest in guests:
        shown.add_row(*(escape(one.value(guest)) for one in columns))
    out.print(shown)


def _state(guest: GuestRow) -> str:
    found = ("frozen" if guest.frozen else "", "ballooned" if guest.balloon else "")
    return ", ".join(word for word in found if word) or "-"


class _Column(NamedTuple):
    heading: str
    value: Callable[[GuestRow], str]


_COLUMNS = (
    _Column(">id", lambda guest: str(guest.id)),
    _Column("name", lambda guest: guest.name),
    _Column(">pid", lambda guest: str(guest.pid)),
    _Column("user", lambda guest: guest.owner),
    _Column("state", _state),
    _Column(">weight", lambda guest: str(guest.weight)),
    _Column(">cap", lambda guest: "-" if guest.cap is None else format_size(guest.cap)),
    _Column(">lease", lambda guest: format_size(guest.lease_bytes)),
    _Column(">share", lambda guest: format_size(guest.share_bytes)),
    _Column(">resident", lambda guest: format_size(guest.resident)),
    _Column(">standby", lambda guest: format_size(guest.standby)),
    _Column(">store", lambda guest: format_size(guest.stored_bytes)),
    _Column(">swap", lambda guest: format_size(guest.swap_bytes)),
    _Column(">faults/s", lambda guest: f"{guest.faults_s:,.0f}"),
    _Column(">stalled", lambda guest: f"{guest.stall:.0%}"),
    _Column(">refused", lambda guest: f"{sum(guest.refused.values()):,}"),
)
_MATTER = {">id", "name", "state", ">lease", ">share", ">resident", ">stalled"}
_ROOM = 150


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def age(seconds: float) -> str:
    """Return a time as people say it: `3 h 12 min`."""
    whole = max(0, int(seconds))
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"
