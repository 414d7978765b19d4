# SPDX-License-Identifier: Apache-2.0
"""Thaw guests of the daemon that were frozen."""

from __future__ import annotations

import argparse

from tmem.cli.guests import add_guest, ask, changed, guest_of, tell

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whom."""
    add_guest(parser, several=True, everybody=True)


def run(options: argparse.Namespace) -> int:
    """Thaw them."""
    answer = ask(options, "thaw", guest=guest_of(options))
    return tell(options, answer, changed(answer, "thawed"))
