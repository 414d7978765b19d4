# SPDX-License-Identifier: Apache-2.0
"""Compare tmem on this machine with the kernel's own swap and other memory: same data, same total memory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tmem.bench.data import DATA
from tmem.bench.patterns import PATTERNS
from tmem.bench.peers import PEERS
from tmem.bench.plan import FITS, JOB_STEPS, Wishes, make_plan
from tmem.bench.plot import draw, plot_missing
from tmem.bench.session import Session, touched
from tmem.bench.tables import notes, sheets
from tmem.cli import footprint
from tmem.cli.benchout import DEFAULT_SIZE, check_writable, data_size, show, skipped, tell
from tmem.cli.render import print_json
from tmem.errors import TmemError

__all__ = ["OWN_JSON", "add_arguments", "run"]

OWN_JSON = True
"""`--json` names a file here: a comparison takes minutes, and its table is wanted too."""

_NOTHING = 1
_CLOSING = (
    "Medians of the rounds. Waits are of the accesses that took more than 0.7 µs, interrupts among them. "
    "Memory: ours is the peak as the kernel counted it, theirs the limit and the pool's peak. "
    "Every byte of every memory that came to its end, and every job's result, was compared with what must be there."
)
_QUICK_MINUTES, _FULL_MINUTES = 3.0, 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to measure and where to put it."""
    parser.add_argument("--quick", action="store_true", help="the short set, within three minutes (the full: thirty)")
    footprint.add_arguments(parser)
    parser.add_argument(
        "--size",
        help="of a data set (default: 256M); in the sets themselves jobs have half of it, in the full one all but the "
        "patterns of flights, heap, ints and cumsum a half or a quarter",
    )
    parser.add_argument("--data", nargs="+", choices=DATA, metavar="NAME", help=f"data sets: {', '.join(DATA)}")
    steps = (*PATTERNS, *JOB_STEPS)
    parser.add_argument(
        "--patterns", nargs="+", choices=steps, metavar="NAME", help=f"what is done: {', '.join(steps)}"
    )
    parser.add_argument(
        "--residency", nargs="+", type=_residency, metavar="SHARE", help="resident, in percent: 50, 25, ..., or fits"
    )
    parser.add_argument("--threads", nargs="+", type=_count, metavar="N", help="threads that walk one memory together")
    parser.add_argument("--entry", nargs="+", choices=("signal", "thread"), help="the fault entries of ours")
    peers = "; ".join(f"{name} ({peer.text})" for name, peer in PEERS.items()).replace("%", "%%")
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), metavar="NAME", help=f"compare with: {peers}")
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="alternating rounds (default: 3)")
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="of data and orders (default: 1)")
    parser.add_argument("--minutes", type=float, metavar="N", help="leave out what no longer fits into that time")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; - is standard output, without tables")
    parser.add_argument("--plot", metavar="FILE.png", help="draw their time / ours")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.epilog = (
        "The kernel's swap is measured as root only; what cannot be measured is listed with its reason. Anything that "
        "is chosen (data, patterns, ...) makes a set of its own out of the quick one. "
        "Exit code: 0 when all that was measured was verified, 1 when nothing could be measured (with --check also "
        "when a limit was not held), 125 after wrong bytes."
    )


def run(options: argparse.Namespace) -> int:
    """Measure, and print the tables."""
    if options.footprint:
        return footprint.run(options)
    if options.check:
        raise TmemError("--check holds limits of --footprint: name that too")
    wishes = _wishes(options)
    if options.plot and (reason := plot_missing()):
        raise TmemError(reason)
    check_writable(options.json, options.plot)
    session = Session(make_plan(wishes), options.seed)
    session.recover(tell)
    session.narrow()
    minutes = options.minutes or (_QUICK_MINUTES if options.quick else _FULL_MINUTES)
    _announce(session, minutes)
    try:
        session.run(tell, minutes * 60)
    except (KeyboardInterrupt, SystemExit):
        tell("ended early: this is what was measured until then")
        _deliver(session, options)
        raise
    finally:
        tell(f"all that was changed is changed back, after {session.seconds:.0f} s")
    _deliver(session, options)
    return 0 if session.rows else _NOTHING


def _deliver(session: Session, options: argparse.Namespace) -> None:
    """Print and write what was asked for."""
    if options.json == "-":
        print_json(session.document())
    else:
        said = [*notes(session.rows), *map(skipped, session.skipped), *([_CLOSING] if session.rows else [])]
        show(sheets(session.rows), said, markdown=options.markdown)
        if options.json:
            Path(options.json).write_text(json.dumps(session.document(), indent=1) + "\n", encoding="utf-8")
    if options.plot and session.rows:
        draw(session.rows, Path(options.plot))


def _wishes(options: argparse.Namespace) -> Wishes:
    return Wishes(
        quick=options.quick,
        nbytes=data_size(options.size or DEFAULT_SIZE),
        rounds=options.rounds,
        data=tuple(options.data or ()),
        steps=tuple(options.patterns or ()),
        residency=tuple(options.residency or ()),
        threads=tuple(options.threads or ()),
        entries=tuple(options.entry or ()),
        peers=tuple(options.peers or ()),
    )


def _announce(session: Session, minutes: float) -> None:
    """Say what will happen before it does."""
    changes = touched(session.cells)
    if changes:
        tell("This makes or changes, and removes or changes back however it ends:")
        for change in changes:
            tell(f"  {change}")
    for skip in session.skipped:
        tell(skipped(skip))
    told = session.estimate() / 60
    tell(f"{len(session.cells)} comparisons, about {told:.0f} minutes (what does not fit into {minutes:g} is left out)")


def _residency(text: str) -> float:
    if text == "fits":
        return FITS
    number = text.removesuffix("%")
    if not number.isdecimal() or not 1 <= int(number) <= 100:  # noqa: PLR2004 - percent
        message = f"{text!r} is neither fits nor a share from 1% to 100%"
        raise argparse.ArgumentTypeError(message)
    return int(number) / 100


def _count(text: str) -> int:
    return _number(text, 1, 64)


def _seed(text: str) -> int:
    return _number(text, 0, (1 << 63) - 1)


def _number(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        message = f"{text!r} is no number from {least} to {most}"
        raise argparse.ArgumentTypeError(message)
    return int(text)
