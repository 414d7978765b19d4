# SPDX-License-Identifier: Apache-2.0
"""Show the daemon's host, and its guests with what each holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from rich.markup import escape

from tmem.cli.guests import add_guest, guest_of
from tmem.cli.hosttable import age, show_guests, show_host
from tmem.cli.render import console, print_json
from tmem.errors import TmemError
from tmem.operator import GuestRow, HostRow, Operator, overview_of
from tmem.units import format_size

__all__ = ["add_arguments", "run"]

_SIZES = ("ram", "resident", "standby", "store_bytes", "leased_used", "swap_bytes", "want_bytes", "reservation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whom, and how much of them."""
    add_guest(parser, several=True, everybody=True, needed=False)
    parser.add_argument("-l", "--long", action="store_true", help="all that is known: counters, reports, pools")
    parser.epilog = "Without GUEST all guests are shown. `tmem top` shows the same as it changes."


def run(options: argparse.Namespace) -> int:
    """Print the host and the guests. TmemError where a guest was named and there is none."""
    named = guest_of(options)
    with Operator(options.socket) as operator:
        answer = operator.ask("list", guest=named, long=options.long)
        seen = overview_of(answer, operator.path)
    if named is not None and not seen.guests:
        raise TmemError(f"no guest is {named!r}: `tmem list` shows who is there")
    if options.json:
        print_json(answer)
        return 0
    if named is None:
        show_host(seen.host)
    if seen.guests:
        show_guests(seen.guests)
    if options.long:
        _show_long(seen.host if named is None else None, seen.guests)
        _show_pools(seen.pools)
    return 0


def _show_long(host: HostRow | None, guests: Iterable[GuestRow]) -> None:
    """Print what the table has no room for: one block for the host, one for each guest."""
    if host is not None:
        counts = {name: value for name, value in host.counters.items() if not isinstance(value, Mapping)}
        refused = _counts(host.refused)
        _block("host", {"version": str(host.version), "extent": format_size(host.extent_bytes)} | counts, refused)
    for guest in guests:
        held = {
            "persistent": format_size(guest.persistent_bytes),
            "ephemeral": format_size(guest.ephemeral_bytes),
            "shared": format_size(guest.shared_bytes),
            "balloon": format_size(guest.balloon) if guest.balloon else "-",
            "compress": "on" if guest.compress else "off",
            "connected": age(guest.connected),
            "cgroup": guest.cgroup or "-",
        }
        sizes = {name.removesuffix("_bytes"): format_size(getattr(guest, name)) for name in _SIZES}
        counts = {name: getattr(guest, name) for name in ("stored_pages", "faults", "loads", "stores")}
        sampled = f"{guest.active / guest.sampled:.0%}" if guest.sampled else "-"
        _block(f"guest {guest.id} ({guest.name})", held | sizes | counts | {"active": sampled}, _counts(guest.refused))


def _block(title: str, values: Mapping[str, object], refused: str) -> None:
    out = console()
    out.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    for name, value in (*values.items(), ("refused", refused)):
        said = (
            f"{value:,}" if isinstance(value, int) else "".join(one if one.isprintable() else "?" for one in str(value))
        )
        out.print(f"  {name:<13} {said}", markup=False, soft_wrap=True)


def _show_pools(pools: Iterable[Mapping[str, object]]) -> None:
    for pool in pools:
        rest = {str(name): _plain(value) for name, value in pool.items() if name != "id"}
        out = console()
        out.print(f"\n[bold]shared pool {escape(str(pool.get('id', '?')))}[/bold]", soft_wrap=True)
        for name, value in rest.items():
            out.print(f"  {name:<13} {value}", markup=False, soft_wrap=True)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "-"
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return str(value)


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counted.items())) or "-"
