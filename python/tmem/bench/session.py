# SPDX-License-Identifier: Apache-2.0
"""One whole comparison: what can be measured here, what will be touched, the measuring, and the document.

Owns: what is skipped and why, and that the machine is as it was afterwards. Called by cli; footprint uses parts of it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from tmem.bench.data import material_missing
from tmem.bench.kernel import THP
from tmem.bench.machine import describe
from tmem.bench.measure import Tell, measure
from tmem.bench.peers import PEERS, missing
from tmem.bench.plan import Cell, Clock
from tmem.bench.report import Row, rows_of
from tmem.bench.undo import Changes, recover
from tmem.errors import KernelUnsupported
from tmem.memory import MINIMUM_RAM, Memory

__all__ = ["Session", "Skip", "entry_missing", "signals", "touched"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

Skip = dict[str, str]


@dataclass(slots=True)
class Session:
    """A plan as far as it can be carried out here, and what came of it."""

    cells: list[Cell]
    seed: int
    skipped: list[Skip] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def recover(self, tell: Tell) -> None:
        """Undo what a killed run has left. It stands in this one's way: its swap has the highest priority."""
        for done in recover() if os.geteuid() == 0 else ():
            tell(f"left by a run that was killed, undone: {done}")

    def narrow(self) -> None:
        """Take out what this machine lacks, and note why. Call `recover` first."""
        lacking: dict[str, str] = {}
        for entry in dict.fromkeys(entry for cell in self.cells for entry in cell.entries):
            self._note(lacking, f"entry {entry}", *entry_missing(entry))
        for data in dict.fromkeys(cell.data for cell in self.cells):
            self._note(lacking, f"data {data}", *material_missing(data))
        for peer in dict.fromkeys(peer for cell in self.cells for peer in cell.peers):
            self._note(lacking, f"peer {peer}", *missing(peer, max(cell.nbytes for cell in self.cells)))
        kept = []
        for cell in self.cells:
            peers = tuple(peer for peer in cell.peers if f"peer {peer}" not in lacking)
            entries = tuple(entry for entry in cell.entries if f"entry {entry}" not in lacking)
            if peers and entries and f"data {cell.data}" not in lacking:
                kept.append(replace(cell, peers=peers, entries=entries))
        self.cells = kept

    def estimate(self) -> float:
        """Return about how many seconds it takes, by figures of one machine; those of this one are seen as it runs."""
        clock = Clock()
        return sum(clock.seconds(cell) for cell in self.cells)

    def run(self, tell: Tell, seconds: float) -> None:
        """Measure everything that fits into `seconds`. However it ends, the machine is changed back."""
        begin = time.monotonic()
        with signals():
            changes = Changes()
            try:
                for measured in measure(self.cells, self.seed, changes, tell, seconds):
                    if isinstance(measured, tuple):
                        cell, reason = measured
                        self.skipped.append({"what": cell.name, "reason": reason, "remedy": "give it more --minutes"})
                    else:
                        self._add(rows_of(measured))
            finally:
                changes.undo()
                self.seconds = time.monotonic() - begin

    def _add(self, rows: list[Row]) -> None:
        """Keep the first of two rows of one thing: a peer is measured again where others are compared in its rounds."""
        keys = ("data", "pattern", "residency", "entry", "threads", "peer")
        there = {tuple(row[key] for key in keys) for row in self.rows}
        self.rows += [row for row in rows if tuple(row[key] for key in keys) not in there]

    def document(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "machine": describe(),
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "rows": self.rows,
            "skipped": self.skipped,
        }

    def _note(self, lacking: dict[str, str], what: str, reason: str, remedy: str) -> None:
        if reason:
            lacking[what] = reason
            self.skipped.append({"what": what, "reason": reason, "remedy": remedy})


def touched(cells: list[Cell]) -> list[str]:
    """Return what of the machine will be changed, in words; nothing where no peer needs it."""
    needs = [need for cell in cells for peer in cell.peers if (need := PEERS[peer].need)]
    swaps = {need.swap for need in needs}
    said = ["a memory cgroup tmem-bench-PID, for the measured process alone"] if needs else []
    said += ["a zram device of its own with swap on it"] if "zram" in swaps else []
    said += ["files in /var/tmp/tmem-bench-PID, among them a swap file"] if swaps & {"file", "zswap"} else []
    said += ["/sys/module/zswap/parameters/enabled"] if swaps & {"file", "zswap"} else []
    said += ["/proc/sys/vm/page-cluster"] if any(need.cluster is not None for need in needs) else []
    said += [str(THP / huge / "enabled") for huge in sorted({need.huge for need in needs} - {""})]
    return said


def entry_missing(entry: str) -> tuple[str, str]:
    """Return why faults cannot be served in this way here, and what to do."""
    try:
        with Memory(MINIMUM_RAM, swap="none", faults=entry, name="bench"):
            return "", ""
    except KernelUnsupported as error:
        return str(error), "see `tmem doctor`"


@contextmanager
def signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does: through every clean-up."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
