# SPDX-License-Identifier: Apache-2.0
"""What the operator's verbs have in common: which daemon, which guests, and how the answer is told.

Owns: --socket, GUEST and -a, and the words for guests that were changed. Called by the verbs. Calls operator.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tmem.cli.render import console, print_json
from tmem.errors import TmemError
from tmem.operator import Operator

__all__ = ["add_guest", "add_socket", "ask", "changed", "guest_of", "tell"]

_GUEST = "a guest: its number, its name, pid:N or user:NAME (tmem list shows them)"


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Add --socket."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help="the daemon's socket (default: that of TMEM_HOST, or the first daemon found on this machine)",
    )


def add_guest(parser: argparse.ArgumentParser, *, several: bool, everybody: bool = False, needed: bool = True) -> None:
    """Add GUEST and --socket; where a verb may be for everybody, -a too, and one of them is `needed`."""
    text = f"{_GUEST}; {'all that match are meant' if several else 'one only'}"
    if everybody:
        which = parser.add_mutually_exclusive_group(required=needed)
        which.add_argument("guest", nargs="?", metavar="GUEST", help=text)
        which.add_argument("-a", "--all", action="store_true", help="all guests")
    else:
        parser.add_argument("guest", metavar="GUEST", help=text)
    add_socket(parser)


def guest_of(options: argparse.Namespace) -> str | None:
    """Return whom the options name; None for all."""
    named: str | None = options.guest
    if named is not None and not named.strip():
        raise TmemError("GUEST is empty: give a number, a name, pid:N or user:NAME")
    return named


def ask(options: argparse.Namespace, verb: str, **arguments: object) -> object:
    """Ask the daemon that the options name, and return the answer."""
    with Operator(options.socket) as operator:
        return operator.ask(verb, **arguments)


def tell(options: argparse.Namespace, answer: object, said: str) -> int:
    """Print the answer as JSON or what is said for people. Return 0."""
    if options.json:
        print_json(answer)
    else:
        console().print(said, markup=False, soft_wrap=True)
    return 0


def changed(answer: object, done: str) -> str:
    """Return what was done to whom: `froze 2 guests: 3 (web), 4 (db)`."""
    found = answer.get("guests") if isinstance(answer, Mapping) else None
    if not isinstance(found, list):
        return done
    names = ", ".join(_named(one) for one in found)
    return f"{done}: {len(found)} guest{'' if len(found) == 1 else 's'}" + (f" ({names})" if names else "")


def _named(guest: object) -> str:
    if isinstance(guest, Mapping):
        return f"{guest.get('id', '?')} {guest.get('name', '')}".strip()
    return str(guest)
