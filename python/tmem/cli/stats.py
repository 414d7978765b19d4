# SPDX-License-Identifier: Apache-2.0
"""Show the memories of the processes that use tmem now."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tmem import ledger
from tmem.cli.render import console, print_json, table
from tmem.counters import Stats, published
from tmem.errors import TmemError
from tmem.units import format_size

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the process to look at."""
    parser.add_argument("pid", nargs="?", type=_pid, metavar="PID", help="look at this process only")
    parser.add_argument(
        "--tree", action="store_true", help="with PID: look at all processes of the `tmem run` that it belongs to"
    )


def run(options: argparse.Namespace) -> int:
    """Print one line for each Memory. TmemError where the process named has none that this user may see."""
    found = list(_of_tree(options.pid) if options.tree else published(options.pid))
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


def _of_tree(pid: int | None) -> Iterator[Stats]:
    """Yield what the processes publish that share a budget with this one. TmemError where it has none to share."""
    if pid is None:
        raise TmemError("--tree needs a process: tmem stats --tree PID")
    try:
        path = ledger.of_process(pid)
        members = {one for one, since in ledger.processes(path) if ledger.start_time(one) == since}
    except OSError as error:
        raise TmemError(
            f"process {pid} is in no tree of tmem run that this user may look into ({error.strerror}): "
            "give the number of one that is, or leave --tree out"
        ) from None
    for member in sorted(members | {pid}):
        yield from published(member)


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
