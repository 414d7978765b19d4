# SPDX-License-Identifier: Apache-2.0
"""What will be measured, in which order, and about how long it takes.

Owns: the quick set, the full set, and the estimate. Called by cli and measure. A cell is one data set at one residency:
all its peers run in alternating rounds. What is most wanted comes first, because cells that no longer fit into the time
are left out, and said to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tmem.bench.jobs import JOBS
from tmem.bench.patterns import PATTERNS, accesses
from tmem.bench.peers import PEERS, UNLIMITED
from tmem.bench.walk import PAGE

__all__ = ["FITS", "JOB_STEPS", "Cell", "Clock", "Wishes", "make_plan"]

FITS = 1.25
"""The residency of data that fits its budget: the budget is that much larger than the data."""

JOB_STEPS = tuple(f"job:{name}" for name in JOBS)
_MAIN = ("flights", "heap")
_NUMERIC = ("ints", "cumsum")
_REST = ("text", "floats", "zeros")
_HALF, _SHARES = (0.5,), (0.5, 0.25)
_TWO = ("fill", "random_read", "random_write", "zipf_read", "zipf_write")
_VARIANTS = ("zram-default", "zram-cluster0", "zram-thp", "zram-mthp64k", "zram-random")
_FILES = ("zswap", "swapfile", "memmap")

# Microseconds an access of a walk, and a page of a job, for the first estimate; then what was measured counts.
_WALK = {"plain": 0.6, "ours": 8.0, "zram": 13.0, "file": 50.0}
_JOB = {"plain": 40.0, "ours": 120.0, "zram": 260.0, "file": 500.0}
_START = 1.0  # seconds of a process: imports, orders, the machine's memory asked for


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: `kind` is `walk` or `jobs`, `steps` are patterns or `job:NAME`."""

    data: str
    kind: str
    residency: float
    threads: int
    peers: tuple[str, ...]
    entries: tuple[str, ...]
    steps: tuple[str, ...]
    rounds: int
    nbytes: int

    @property
    def name(self) -> str:
        """The cell in words."""
        share = "all fits" if self.residency == FITS else f"{self.residency:.0%} resident"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.data}, {'patterns' if self.kind == 'walk' else 'jobs'}, {share}, {threads}"

    def budgets(self) -> list[str]:
        """Return the words of the budgets that ours is given; plain memory is compared with the first of them."""
        words = dict.fromkeys(PEERS[peer].budget for peer in self.peers if PEERS[peer].budget)
        own = [word for word in words if word != UNLIMITED]
        if not own and any(not PEERS[peer].budget for peer in self.peers):
            own = ["limit"]
        return [*own, *(word for word in words if word == UNLIMITED)]

    def runs(self) -> list[str]:
        """Return who runs in one round: peers, and ours once for each budget and entry."""
        return [*self.peers, *("ours" for _ in self.budgets() for _ in self.entries)]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for; empty is the set's own choice."""

    quick: bool
    nbytes: int
    rounds: int = 3
    data: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    residency: tuple[float, ...] = ()
    threads: tuple[int, ...] = ()
    entries: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()


@dataclass(slots=True)
class Clock:
    """How long a run takes: guessed, and once one was measured, as that one did for its kind and size."""

    _known: dict[tuple[str, str, float], float] = field(default_factory=dict)

    def seconds(self, cell: Cell) -> float:
        """Return the estimate for all rounds of a cell."""
        return cell.rounds * sum(self._run(cell, who) for who in cell.runs())

    def learn(self, cell: Cell, who: str, seconds: float) -> None:
        """Remember what a run took."""
        key = (cell.kind, who, cell.residency)
        rate = max(0.0, seconds - _START) / _work(cell)
        self._known[key] = max(rate, self._known.get(key, rate) / 2 + rate / 2)

    def _run(self, cell: Cell, who: str) -> float:
        known = self._known.get((cell.kind, who, cell.residency))
        if known is None:
            table = _WALK if cell.kind == "walk" else _JOB
            sort = "zram" if who.startswith("zram") else who if who in table else "file"
            known = table[sort] / 1e6 * (1.0 if cell.residency == FITS else 0.5 + 0.25 / cell.residency)
        return _START + known * _work(cell)


def _work(cell: Cell) -> int:
    """Return accesses, with those of the check behind a walk, or pages times jobs."""
    pages = cell.nbytes // PAGE
    if cell.kind == "walk":
        return pages + sum(accesses(step, pages) for step in cell.steps)
    return pages * len(cell.steps) // 5


def make_plan(wishes: Wishes) -> list[Cell]:
    """Return the cells, the most wanted first."""
    if wishes.quick or wishes.data or wishes.steps or wishes.peers or wishes.residency or wishes.threads:
        return [*_chosen(wishes)]
    return [*_full(wishes)]


def _chosen(wishes: Wishes) -> Iterable[Cell]:
    """Yield every combination of what was asked for; what was not is as in the quick set."""
    steps = wishes.steps or (*PATTERNS, *JOB_STEPS)
    walks = tuple(step for step in PATTERNS if step in steps)
    jobs = tuple(step for step in JOB_STEPS if step in steps)
    peers = wishes.peers or ("plain", "zram")
    walkers = tuple(peer for peer in peers if PEERS[peer].walks)
    half = wishes.nbytes // 2 // PAGE * PAGE  # of the quick set's jobs, to be done in time
    rest: dict[str, Any] = {"rounds": wishes.rounds, "entries": wishes.entries or ("signal",)}
    cells = [
        Cell(
            data,
            kind,
            residency,
            threads,
            peers if kind == "jobs" else walkers,
            steps=part,
            nbytes=half if kind == "jobs" and wishes.quick else wishes.nbytes,
            **rest,
        )
        for kind, part in (("walk", walks), ("jobs", jobs))
        for data in wishes.data or (("flights", "ints") if kind == "walk" or wishes.steps else ("flights",))
        for residency in wishes.residency or (0.5,)
        for threads in wishes.threads or (1,)
        if part and not (kind == "jobs" and threads > 1)
    ]
    return [cell for cell in cells if cell.peers]


def _full(wishes: Wishes) -> Iterable[Cell]:
    """Yield the full set. To be done in time, only the patterns of the data sets with aims have the whole size."""

    def cells(
        names: Iterable[str], shares: Iterable[float], peers: tuple[str, ...], *, divide: int = 2, **other: Any
    ) -> Iterator[Cell]:
        for data in names:
            for residency in shares:
                given: dict[str, Any] = {"kind": "walk", "threads": 1, "steps": PATTERNS, "entries": entries[:1]}
                nbytes = wishes.nbytes // divide // PAGE * PAGE
                yield Cell(data, residency=residency, peers=peers, rounds=wishes.rounds, nbytes=nbytes, **given | other)

    entries = wishes.entries or ("signal", "thread")
    both: tuple[str, ...] = ("plain", "zram")
    jobs: dict[str, Any] = {"kind": "jobs", "steps": JOB_STEPS}
    yield from cells(_MAIN, _SHARES, both, divide=1, entries=entries)
    yield from cells(_MAIN, _SHARES, both, threads=2, steps=_TWO)
    yield from cells(_MAIN, _HALF, both, **jobs)
    yield from cells(_MAIN, (FITS,), ("plain",), steps=("fill",))
    yield from cells(_MAIN, (FITS,), ("plain",), **jobs)
    yield from cells(_NUMERIC, _SHARES, both, divide=1)
    yield from cells(_MAIN, _HALF, ("zram", *_VARIANTS))
    yield from cells(_MAIN, (0.25,), both, **jobs)
    yield from cells(("random",), _SHARES, both, divide=4)
    yield from cells(("random",), _HALF, ("swapfile",), divide=4)
    yield from cells(_MAIN, _HALF, ("plain", "memmap", "blosc2"), divide=4, **jobs)
    yield from cells(_MAIN, _HALF, _FILES, divide=4)
    yield from cells(_REST, _SHARES, both, divide=4)
