# SPDX-License-Identifier: Apache-2.0
"""Print how much of what the daemon leased can be taken back at once, because it is ephemeral."""

from __future__ import annotations

import argparse

from tmem.cli.guests import add_socket, ask, tell
from tmem.errors import TmemError
from tmem.units import format_size

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which daemon."""
    add_socket(parser)


def run(options: argparse.Namespace) -> int:
    """Print the size."""
    answer = ask(options, "freeable")
    if not isinstance(answer, dict) or not isinstance(answer.get("bytes"), int):
        raise TmemError("the daemon does not tell what is freeable: use the tmem that it runs with")
    return tell(options, answer, format_size(answer["bytes"]))
