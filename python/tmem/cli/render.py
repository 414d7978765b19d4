# SPDX-License-Identifier: Apache-2.0
"""How the verbs show what they have: one console, tables of one look, JSON.

Owns: looks. Called by the verbs. NO_COLOR and pipes are rich's to see; in a pipe nothing is cut to a width.
"""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.table import Table

__all__ = ["console", "print_json", "table"]

_PIPE_WIDTH = 240


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which ends as after SIGPIPE; rich would end with 1."""
        raise  # noqa: PLE0704 - called where it is handled


def console() -> Console:
    """Return a console on standard output."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def table(*headings: str, title: str | None = None) -> Table:
    """Return an empty table; a heading that starts with `>` is of a column of numbers."""
    made = Table(title=title, box=None, pad_edge=False, title_justify="left", header_style="bold")
    for heading in headings:
        made.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
    return made


def print_json(document: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
