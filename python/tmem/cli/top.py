# SPDX-License-Identifier: Apache-2.0
"""Watch the daemon's host and its guests: who holds what, who waits, who is refused."""

from __future__ import annotations

import argparse
import math
import sys
import time

from tmem.cli.guests import add_socket
from tmem.cli.hosttable import show_guests, show_host
from tmem.cli.render import print_json
from tmem.errors import TmemError
from tmem.top.feed import Feed
from tmem.top.model import SORTS, chosen, document

__all__ = ["add_arguments", "run"]

_SHORTEST, _LONGEST = 0.1, 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which daemon, how often, and the ways without a screen."""
    add_socket(parser)
    parser.add_argument("--once", action="store_true", help="print one table, of rates over one interval, and end")
    parser.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two readings (default: 1)"
    )
    parser.add_argument("--sort", choices=tuple(SORTS), default="lease", help="the order at first (default: lease)")
    parser.epilog = (
        "Keys: ? tells them. --json is one document, as of --once. Needs the extra tmem[host]; --once does not."
    )


def run(options: argparse.Namespace) -> int:
    """Show it until the user leaves, or once. TmemError where there is no terminal, or no textual."""
    if options.once or options.json:
        return _once(options)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise TmemError("it needs a terminal: use --once for a table, or --json for a document")
    try:
        from tmem.top.app import TopApp  # noqa: PLC0415 - the one thing here that needs textual
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise TmemError("it needs textual: pip install 'tmem[host]', or use --once, which does without") from None
    app = TopApp(Feed(options.socket), options.interval, options.sort)
    app.run()
    return app.return_code or 0


def _once(options: argparse.Namespace) -> int:
    """Print what two readings tell."""
    feed = Feed(options.socket)
    try:
        feed.read()
        time.sleep(options.interval)
        view = feed.read()
    finally:
        feed.close()
    rows = chosen(view.rows, options.sort)
    if options.json:
        print_json(document(view, rows, options.interval))
    else:
        show_host(view.host)
        show_guests(row.rated() for row in rows)
    return 0


def _seconds(text: str) -> float:
    try:
        given = float(text)
    except ValueError:
        given = math.nan
    if not _SHORTEST <= given <= _LONGEST:
        message = f"{text!r} is not a number of seconds from {_SHORTEST:g} to {_LONGEST:g}"
        raise argparse.ArgumentTypeError(message)
    return given
