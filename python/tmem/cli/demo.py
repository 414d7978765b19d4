# SPDX-License-Identifier: Apache-2.0
"""Work on a real table at four times its RAM budget, with tmem and without, and compare."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from tmem.cli.render import console, print_json, table
from tmem.demo.run import Outcome, Progress, run_demo, slack
from tmem.units import format_size, parse_size

__all__ = ["add_arguments", "run"]

_WRONG = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the size of the table and the fault entry."""
    parser.add_argument("--size", default="1G", help="the table's size; the budget is a quarter of it (default: 1G)")
    parser.add_argument("--faults", choices=("auto", "signal", "thread"), default="auto", help="the fault entry to use")
    parser.epilog = "Exit code: 0 when both runs gave the same results within the budget, 1 when not."


def run(options: argparse.Namespace) -> int:
    """Run the demonstration and print one small table."""
    size = parse_size(options.size, what="--size")
    with _bar(wanted=not options.json) as progress:
        outcome = run_demo(size, options.faults, progress)
    if options.json:
        print_json(_document(outcome))
    else:
        _show(outcome)
    return 0 if outcome.held and outcome.equal is not False and not outcome.paged["broken"] else _WRONG


@contextmanager
def _bar(*, wanted: bool) -> Iterator[Progress]:
    """Yield what takes progress: a bar on a terminal, nothing in a pipe."""
    screen = Console(stderr=True)
    if not wanted or not screen.is_terminal:
        yield lambda _what, _done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bar(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, done: bar.update(task, description=f"{what:<36}", completed=done)


def _document(outcome: Outcome) -> dict[str, object]:
    return {
        "table_bytes": outcome.table,
        "rows": outcome.rows,
        "budget_bytes": outcome.budget,
        "slack_bytes": slack(outcome.budget),
        "held": outcome.held,
        "equal": outcome.equal,
        "tmem": outcome.paged,
        "plain": outcome.plain,
    }


def _show(outcome: Outcome) -> None:
    out = console()
    stats = outcome.paged["stats"]
    out.print(
        f"Flights of New York City, 2013, grown to {outcome.rows:,} rows of numbers: {format_size(outcome.table)}."
    )
    shown = table("", ">plain memory", ">with tmem")
    shown.add_row("budget", "none", format_size(outcome.budget))
    shown.add_row("peak memory, as the kernel counted it", _peak(outcome.plain), _peak(outcome.paged))
    for name in outcome.paged["seconds"]:
        shown.add_row(f"time to {name}", _seconds(outcome.plain, name), _seconds(outcome.paged, name))
    shown.add_row("time in all", _seconds(outcome.plain), _seconds(outcome.paged))
    shown.add_row("share of memory managed", "-", f"{stats['share']:.1%}")
    shown.add_row("store: bytes kept in one byte of RAM", "-", f"{stats['ratio']:.1f}")
    shown.add_row("faults", "-", f"{stats['faults']:,}")
    out.print(shown)
    out.print(_verdict(outcome))


def _peak(measured: dict[str, Any] | None) -> str:
    return "does not fit here" if measured is None else format_size(measured["peak"])


def _seconds(measured: dict[str, Any] | None, name: str | None = None) -> str:
    if measured is None:
        return "-"
    seconds = measured["seconds"]
    return f"{sum(seconds.values()) if name is None else seconds[name]:.1f} s"


def _verdict(outcome: Outcome) -> str:
    results = {
        True: "Both runs gave the same results, bit for bit.",
        False: "The results differ: this is a defect, please report it.",
        None: "There is no room for the plain run here, so the results were not compared.",
    }[outcome.equal]
    budget = f"The budget held (within {format_size(slack(outcome.budget))})."
    if not outcome.held:
        budget = f"The budget did not hold (it may be passed by {format_size(slack(outcome.budget))})."
    return f"{results} {budget}"
