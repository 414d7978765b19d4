# SPDX-License-Identifier: Apache-2.0
"""What both modes of `tmem bench` have in common: what is checked before a run, what is said in it, how tables look.

Owns: nothing. Called by bench and footprint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.markup import escape

from tmem.bench.tables import Sheet, as_markdown
from tmem.bench.walk import PAGE
from tmem.cli.render import console, table
from tmem.errors import SizeError, TmemError
from tmem.units import format_size, parse_size

__all__ = ["DEFAULT_SIZE", "check_writable", "data_size", "show", "skipped", "tell"]

DEFAULT_SIZE = "256M"
"""Of a data set."""

_SMALLEST = 16 << 20


def check_writable(*paths: str | None) -> None:
    """Say now what could not be written after half an hour. TmemError."""
    for path in (Path(name) for name in paths if name and name != "-"):
        if path.is_dir() or not path.parent.is_dir():
            reason = "it is a directory" if path.is_dir() else "no such directory"
            raise TmemError(f"{path} cannot be written: {reason}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise TmemError(f"{path} cannot be written: permission denied")


def data_size(text: str) -> int:
    """Return the size of a data set, whole pages. SizeError for one that measures nothing."""
    size = parse_size(text, what="--size") // PAGE * PAGE
    if size < _SMALLEST:
        raise SizeError(f"size of {format_size(size)} is too small: use {format_size(_SMALLEST)} or more")
    return size


def show(sheets: Iterable[Sheet], said: Iterable[str], *, markdown: bool) -> None:
    """Print tables, and what is said below them."""
    out = console()
    for sheet in sheets:
        if markdown:
            sys.stdout.write(as_markdown(sheet) + "\n")
            continue
        shown = table(*sheet.headings, title=f"\n{sheet.title}")
        for line in sheet.lines:
            shown.add_row(*line)
        out.print(shown)
    for text in said:
        out.print(escape(text), soft_wrap=True)


def skipped(skip: dict[str, str]) -> str:
    """Return in words what was not measured, and why."""
    return f"skipped: {skip['what']}: {skip['reason']}" + (f" -> {skip['remedy']}" if skip["remedy"] else "")


def tell(text: str) -> None:
    """Say something at once, beside the output."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
