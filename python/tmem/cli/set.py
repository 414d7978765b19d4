# SPDX-License-Identifier: Apache-2.0
"""Set the weight, cap, reservation or compression of guests of the daemon."""

from __future__ import annotations

import argparse

from tmem.cli.guests import add_guest, ask, changed, guest_of, tell
from tmem.errors import SizeError
from tmem.units import parse_size

__all__ = ["add_arguments", "run"]

_MOST_WEIGHT = 1 << 20
_NONE = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whom and what."""
    add_guest(parser, several=True, everybody=True)
    parser.add_argument(
        "-w", "--weight", type=_weight, metavar="N", help="its part of the memory, against the others' weights; first 1"
    )
    parser.add_argument("-c", "--cap", metavar="SIZE", help="what it may hold at most: 2G, 512MiB, or none")
    parser.add_argument(
        "-r", "--reservation", metavar="SIZE", help="what is kept for it, whatever the others want, or none"
    )
    parser.add_argument("-p", "--compress", choices=("on", "off"), help="whether it packs the pages that it stores")
    parser.epilog = "What is not named stays as it is."


def run(options: argparse.Namespace) -> int:
    """Set what was named."""
    wanted = {
        "weight": options.weight,
        "cap": _NONE if options.cap == _NONE else _size(options.cap, "--cap"),
        "compress": None if options.compress is None else options.compress == "on",
        "reservation": 0 if options.reservation == _NONE else _size(options.reservation, "--reservation"),
    }
    named = {name: value for name, value in wanted.items() if value is not None}
    if not named:
        raise SizeError("nothing to set: give --weight, --cap, --reservation or --compress")
    answer = ask(options, "set", guest=guest_of(options), **named)
    return tell(options, answer, changed(answer, "set"))


def _size(given: str | None, what: str) -> int | None:
    """Return a size in bytes; unlike elsewhere none at all can be meant."""
    if given is None:
        return None
    return 0 if given == "0" else parse_size(given, what=what)


def _weight(text: str) -> int:
    if not text.isdecimal() or int(text) > _MOST_WEIGHT:
        message = f"{text!r} is not a weight: a whole number from 0 to {_MOST_WEIGHT}"
        raise argparse.ArgumentTypeError(message)
    return int(text)
