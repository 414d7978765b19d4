# SPDX-License-Identifier: Apache-2.0
"""Lease memory to programs: one pool for the machine, many guests."""

from __future__ import annotations

import argparse

from tmem.daemon import start

__all__ = ["OWN_JSON", "add_arguments", "run"]

OWN_JSON = True
"""A daemon prints nothing, and a dry run always prints JSON."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the daemon's flags."""
    start.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the daemon until it is told to end. TmemError where it cannot start."""
    return start.run(options)
