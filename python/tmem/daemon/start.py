# SPDX-License-Identifier: Apache-2.0
"""From a command line to a daemon, or to what a policy would decide.

Owns: the daemon's flags. Called by cli.daemon and `python -m tmem.daemon`. Calls config, main, policies.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from tmem import policies
from tmem.daemon.config import Config, ConfigError, load
from tmem.daemon.main import serve
from tmem.errors import TmemError
from tmem.policies import Decision, HostView, Request

__all__ = ["add_arguments", "dry_run", "run"]

_FLAGS: Final = ("socket", "capacity", "policy", "extent", "metrics")


class DryRunError(TmemError, ValueError):
    """What was given is no view of a host."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the daemon's flags. What they say goes before what the file says."""
    parser.add_argument("--socket", metavar="PATH", help="where guests connect; the administrator's is PATH.admin")
    parser.add_argument("--capacity", metavar="SIZE", help="what may be leased: bytes, 8G, or a share (default 50%%)")
    parser.add_argument(
        "--policy", metavar="NAME", choices=policies.NAMES, help=f"who gets memory: {', '.join(policies.NAMES)}"
    )
    parser.add_argument("--extent", metavar="SIZE", help="the unit of a lease: whole MiB, 1M to 64M (default 4M)")
    parser.add_argument("--config", metavar="FILE", help="TOML file (default /etc/tmem/daemon.toml, if it is there)")
    parser.add_argument("--metrics", metavar="PORT", type=int, help="answer Prometheus at this port of the loopback")
    parser.add_argument("--verbose", action="store_true", help="log each guest that comes and goes")
    parser.add_argument(
        "--dry-run", metavar="FILE", help="read a view of a host as JSON (-: standard input) and print the decision"
    )


def run(options: argparse.Namespace) -> int:
    """Run the daemon until it is told to end, or the dry run; return the exit code."""
    told = {name: value for name in _FLAGS if (value := getattr(options, name)) is not None}

    def read() -> Config:
        return load(options.config, told)

    if options.dry_run is not None:
        decision = dry_run(_text(options.dry_run), read().policy)
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(decision), indent=2).decode() + "\n")
        return 0
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(name)s: %(message)s",  # the journal has the time
    )
    if not options.verbose:
        logging.getLogger("tmem.daemon.server").setLevel(logging.WARNING)
        logging.getLogger("tmem.daemon.flow").setLevel(logging.WARNING)
    return serve(read)


def dry_run(text: str | bytes, policy: str) -> Decision:
    """Return what a policy decides for a view of a host, and for the `request` beside it, if there is one."""
    try:
        values: Any = msgspec.json.decode(text)
        if not isinstance(values, dict):
            raise DryRunError("a view is a JSON object: capacity, free, guests, and request where somebody asks")
        asked = values.pop("request", None)
        view = msgspec.convert(values, HostView)
        request = None if asked is None else msgspec.convert(asked, Request)
    except msgspec.MsgspecError as error:
        raise DryRunError(f"no view of a host: {error}") from None
    if request is not None and request.guest not in {guest.id for guest in view.guests}:
        raise DryRunError(f"the request is of guest {request.guest}, who is not in the view")
    return policies.get(policy).decide(view, request)


def _text(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read ({error}): name a file, or - for standard input") from None
