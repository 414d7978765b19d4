# SPDX-License-Identifier: Apache-2.0
"""Show the memories of the processes that use tmem now."""

from __future__ import annotations

import argparse

from tmem.cli.render import console, print_json, table
from tmem.counters import Stats, published
from tmem.errors import TmemError
from tmem.units import format_size

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the process to look at."""
    parser.add_argument("pid", nargs="?", type=_pid, metavar="PID", help="look at this process only")


def run(options: argparse.Namespace) -> int:
    """Print one line for each Memory. TmemError where the process named has none that this user may see."""
    found = list(published(options.pid))
    if options.pid is not None and not found:
        raise TmemError(
            f"process {options.pid} has no tmem.Memory that this user may see: try without a PID, or as root"
        )
    if options.json:
        print_json([stats.as_dict() for stats in found])
    elif not found:
        console().print("No process that this user may look into uses tmem now.")
    else:
        _show(found)
    return 0


def _show(found: list[Stats]) -> None:
    shown = table(
        "name", ">pid", "entry", ">budget", ">used", ">arrays", ">resident", ">standby", ">store", ">ratio", ">swap",
        ">faults", ">stalled",
    )  # fmt: skip
    for stats in found:
        sizes = (stats.ram, stats.used, stats.mapped, stats.resident, stats.standby, stats.store_bytes)
        shown.add_row(
            stats.name,
            str(stats.pid),
            stats.entry if stats.armed else "idle",
            *(format_size(size) for size in sizes),
            f"{stats.ratio:.1f}" if stats.ratio else "-",
            format_size(stats.swap_used),
            f"{stats.faults:,}",
            f"{stats.fault_ns / 1e9:.1f} s",
        )
    console().print(shown)


def _pid(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 22:
        message = f"{text!r} is not a process number"
        raise argparse.ArgumentTypeError(message)
    return int(text)
