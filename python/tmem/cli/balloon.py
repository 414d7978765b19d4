# SPDX-License-Identifier: Apache-2.0
"""Ask guests of the daemon to keep their own memory within a size, or end that."""

from __future__ import annotations

import argparse

from tmem.cli.guests import add_guest, ask, changed, guest_of, tell
from tmem.units import format_size, parse_size

__all__ = ["add_arguments", "run"]

_OFF = "off"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whom and to what."""
    add_guest(parser, several=True)
    parser.add_argument("size", metavar="SIZE", help="the resident set and all else of its budget: 512M, or off")
    parser.epilog = "The guest is asked and not forced; `tmem list` shows what it holds."


def run(options: argparse.Namespace) -> int:
    """Ask them."""
    size = 0 if options.size == _OFF else parse_size(options.size, what="SIZE")
    answer = ask(options, "balloon", guest=guest_of(options), bytes=size)
    done = f"asked to keep within {format_size(size)}" if size else "back to its own budget"
    return tell(options, answer, changed(answer, done))
