# SPDX-License-Identifier: Apache-2.0
"""`tmem bench --footprint`: what a stored page takes, ours and zram's, and what a cold fault costs with either.

Owns: the runs, and that the machine is as it was afterwards. Called by cli. Calls worker in processes, zramstore and
kernel for zram, footrows for what is made of it.
How: a Memory with room for all of its data, so that nothing has to leave for a page that comes, is filled, and all of
it sent out by `evict`; then it is waited until it is cold (cold.settle). zram's bytes are those of the same pages on a
bare device; its faults are those of a process in a memory cgroup whose pages were all sent out (MADV_PAGEOUT), and
which has room as well for those that it touches. Who runs alternates; each page is touched once, at random.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from tmem.bench import kernel
from tmem.bench.data import DATA, Source, make, material_missing
from tmem.bench.footrows import Row, footprint_row
from tmem.bench.kernel import Need
from tmem.bench.machine import describe
from tmem.bench.measure import Run, Tell, run_worker
from tmem.bench.session import Skip, entry_missing, signals
from tmem.bench.undo import Changes, recover
from tmem.bench.walk import PAGE
from tmem.bench.zramstore import ZramBytes, zram_bytes

__all__ = ["FAULTS", "FIRST", "Footprint"]

FAULTS = 8192
"""Cold pages touched in a run, or all where there are fewer: the 99th percentile then rests on eighty."""

FIRST = "lz4"
"""The algorithm of zram that the limits are held against."""

_SECOND = "zstd"
_TRIES = 3  # of a process that the kernel kills under its limit
_BESIDE = 16 << 20  # of the limit: what Python makes meanwhile, and pages on their way out


@dataclass(slots=True)
class Footprint:
    """The data sets, as far as they can be measured here, and what came of it."""

    data: tuple[str, ...]
    nbytes: int
    rounds: int
    seed: int
    entry: str = "signal"
    peers: tuple[str, ...] = (FIRST, _SECOND)
    skipped: list[Skip] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.data = self.data or DATA

    def recover(self, tell: Tell) -> None:
        """Undo what a killed run has left."""
        for done in recover() if os.geteuid() == 0 else ():
            tell(f"left by a run that was killed, undone: {done}")

    def narrow(self) -> None:
        """Take out what this machine lacks, and note why: ours is measured without zram too. Call `recover` first."""
        if self._lacks(f"entry {self.entry}", *entry_missing(self.entry)):
            self.data = ()
        self.data = tuple(name for name in self.data if not self._lacks(f"data {name}", *material_missing(name)))
        if self._lacks("peer zram", *kernel.cgroup_missing()):
            self.peers = ()
        self.peers = tuple(
            peer for peer in self.peers if not self._lacks(f"peer zram {peer}", *kernel.zram_missing(peer))
        )

    def touched(self) -> list[str]:
        """Return what of the machine will be changed, in words."""
        if not self.peers:
            return []
        return [
            "a memory cgroup tmem-bench-PID, for the measured process alone",
            "zram devices of its own, one at a time: bare ones for the bytes, one with swap on it for the faults",
            "an empty directory /var/tmp/tmem-bench-PID",
        ]

    def run(self, tell: Tell, seconds: float) -> None:
        """Measure what fits into `seconds`. However it ends, the machine is changed back."""
        begin, longest = time.monotonic(), 0.0
        with signals():
            changes = Changes()
            try:
                for name in self.data:
                    start = time.monotonic()
                    if start - begin + longest > seconds:
                        left = f"about {longest:.0f} s are needed, and {seconds - (start - begin):.0f} s were left"
                        self.skipped.append({"what": f"data {name}", "reason": left, "remedy": "give it more --minutes"})
                        continue
                    tell(f"making {name}")
                    with make(name, self.nbytes, self.seed) as source:
                        self.rows.append(self._measured(source, changes, tell))
                    longest = max(longest, time.monotonic() - start)
            finally:
                changes.undo()
                self.seconds = time.monotonic() - begin

    def document(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "machine": describe(),
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "entry": self.entry,
            "rows": self.rows,
            "skipped": self.skipped,
        }

    def _lacks(self, what: str, reason: str, remedy: str) -> bool:
        if reason:
            self.skipped.append({"what": what, "reason": reason, "remedy": remedy})
        return bool(reason)

    def _measured(self, source: Source, changes: Changes, tell: Tell) -> Row:
        stores: dict[str, ZramBytes] = {}
        for peer in self.peers:
            tell(f"{source.name}: its pages on a bare zram, {peer}")
            stores[peer] = zram_bytes(changes, peer, source.fd, source.nbytes)
        rounds: list[dict[str, Run]] = []
        for number in range(self.rounds):
            tell(f"{source.name}: round {number + 1} of {self.rounds}")
            runs = {peer: self._peer(peer, source, changes) for peer in self.peers}
            runs["ours"] = self._ours(source)
            rounds.append(runs)
        return footprint_row(source.name, source.nbytes, rounds, stores)

    def _spec(self, source: Source) -> dict[str, Any]:
        return {
            "kind": "cold", "data": source.name, "bytes": source.nbytes, "seed": self.seed, "fd": source.fd,
            "advice": "", "faults": min(FAULTS, source.nbytes // PAGE), "columns": source.columns,
        }  # fmt: skip

    def _ours(self, source: Source) -> Run:
        return run_worker(self._spec(source) | {"memory": "tmem", "ram": budget(source.nbytes), "entry": self.entry}, None)

    def _peer(self, algorithm: str, source: Source, changes: Changes) -> Run:
        """Run the process under zram; again where the kernel kills it, which is told."""
        spec = self._spec(source) | {"memory": "anonymous", "small_pages": True}
        limit = spec["faults"] * PAGE + source.nbytes // 256 + _BESIDE  # page tables are charged to the group
        killed = 0
        while True:
            with kernel.room(changes, Need("zram", algorithm), limit, source.nbytes) as room:
                run = run_worker(spec, room)
            run.killed = killed = killed + bool(run.ended)
            if not run.ended or killed == _TRIES:
                return run


def budget(nbytes: int) -> int:
    """Return a budget for ours in which all data has room, packed or not: the store may take three fifths of it."""
    return 2 * nbytes + (64 << 20)
