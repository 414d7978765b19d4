# SPDX-License-Identifier: Apache-2.0
"""`tmem bench --footprint`: what a stored page takes beside zram, and what a cold fault costs.

Owns: its options and what it prints. Called by bench, whose other options it shares.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tmem.bench.data import DATA
from tmem.bench.footplot import draw_footprint
from tmem.bench.footprint import FAULTS, Footprint
from tmem.bench.foottables import footprint_notes, footprint_sheets
from tmem.bench.plot import plot_missing
from tmem.cli.benchout import DEFAULT_SIZE, check_writable, data_size, show, skipped, tell
from tmem.cli.render import print_json
from tmem.errors import TmemError

__all__ = ["add_arguments", "run"]

_QUICK = "64M"
_MINUTES = 30.0
_NOT_HELD = 1
_OTHERS = ("patterns", "residency", "threads", "peers")
_CLOSING = (
    "Medians of the rounds. Ours counts the store with its tables, 16 bytes of hash in the pager's table for each page "
    "that has data, and pages on the swap device whole; the rest of the pager's tables is beside, as the kernel's page "
    "tables are. "
    "zram counts mem_used_total and its table. Every byte of both was compared with what must be there."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what chooses this mode."""
    parser.add_argument(
        "--footprint",
        action="store_true",
        help="instead: bytes of a stored page, warm and cold, beside zram (lz4, zstd), for every data set, and p50 and "
        f"p99 of {FAULTS} cold faults at random; takes --data, --size, --rounds, --seed, --entry, --minutes, --quick "
        f"(data sets of {_QUICK}) and what says where the results go",
    )
    parser.add_argument("--check", action="store_true", help="with --footprint: exit code 1 where a limit is not held")


def run(options: argparse.Namespace) -> int:
    """Measure, and print the tables and verdicts."""
    if wrong := [f"--{name}" for name in _OTHERS if getattr(options, name)]:
        raise TmemError(f"--footprint measures no {', '.join(wrong)}: leave it out")
    if options.plot and (reason := plot_missing()):
        raise TmemError(reason)
    check_writable(options.json, options.plot)
    size = data_size(options.size or (_QUICK if options.quick else DEFAULT_SIZE))
    entry = (options.entry or ["signal"])[0]
    made = Footprint(tuple(options.data or DATA), size, options.rounds, options.seed, entry)
    made.recover(tell)
    made.narrow()
    _announce(made)
    try:
        made.run(tell, (options.minutes or _MINUTES) * 60)
    except (KeyboardInterrupt, SystemExit):
        tell("ended early: this is what was measured until then")
        _deliver(made, options)
        raise
    finally:
        tell(f"all that was changed is changed back, after {made.seconds:.0f} s")
    _deliver(made, options)
    if options.check:
        return 0 if made.rows and all(said["held"] for row in made.rows for said in row["verdicts"]) else _NOT_HELD
    return 0 if made.rows else _NOT_HELD


def _announce(made: Footprint) -> None:
    """Say what will happen before it does."""
    if changes := made.touched():
        tell("This makes or changes, and removes or changes back however it ends:")
        for change in changes:
            tell(f"  {change}")
    for skip in made.skipped:
        tell(skipped(skip))
    tell(f"{len(made.data)} data sets, {made.rounds} rounds each")


def _deliver(made: Footprint, options: argparse.Namespace) -> None:
    """Print and write what was asked for."""
    if options.json == "-":
        print_json(made.document())
    else:
        said = [*footprint_notes(made.rows), *map(skipped, made.skipped), *([_CLOSING] if made.rows else [])]
        show(footprint_sheets(made.rows), said, markdown=options.markdown)
        if options.json:
            Path(options.json).write_text(json.dumps(made.document(), indent=1) + "\n", encoding="utf-8")
    if options.plot and made.rows:
        draw_footprint(made.rows, Path(options.plot))
