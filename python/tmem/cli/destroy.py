# SPDX-License-Identifier: Apache-2.0
"""Take back all that a guest of the daemon holds, and end its connection."""

from __future__ import annotations

import argparse

from tmem.cli.guests import add_guest, ask, guest_of, tell
from tmem.units import format_size

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whom, and how far."""
    add_guest(parser, several=False)
    parser.add_argument(
        "--force",
        action="store_true",
        help="also where it holds persistent pages, which are lost: its program stops with a report when it next "
        "touches one",
    )
    parser.epilog = (
        "Without --force a guest that holds persistent memory is left alone. `tmem freeze` stops its growth, and `tmem "
        "balloon` makes it smaller, without an end to its program."
    )


def run(options: argparse.Namespace) -> int:
    """Take it back."""
    answer = ask(options, "destroy", guest=guest_of(options), force=options.force)
    freed = answer.get("bytes") if isinstance(answer, dict) else None
    what = f"{format_size(freed)} are" if isinstance(freed, int) else "what it held is"
    more = "; its program stops with a report when it next touches a page that was there" if options.force else ""
    return tell(options, answer, f"guest {options.guest} is destroyed: {what} the host's again{more}")
