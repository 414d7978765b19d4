# SPDX-License-Identifier: Apache-2.0
"""Freeze guests of the daemon: what they hold stays and can be read, and they get and store no more."""

from __future__ import annotations

import argparse

from tmem.cli.guests import add_guest, ask, changed, guest_of, tell

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whom."""
    add_guest(parser, several=True, everybody=True)
    parser.epilog = "Then `tmem freeable` tells what can be taken back at once, and `tmem thaw` ends the freeze."


def run(options: argparse.Namespace) -> int:
    """Freeze them."""
    answer = ask(options, "freeze", guest=guest_of(options))
    return tell(options, answer, changed(answer, "frozen"))
