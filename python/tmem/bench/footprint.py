# SPDX-License-Identifier: Apache-2.0
"""`tmem bench --footprint`: what a stored page takes, ours and zram's, and what a cold fault costs with either.

Owns: the runs, and that the machine is as it was afterwards. Called by cli. Calls worker in processes, zramstore and
kernel for zram, footrows for what is made of it.
How: a Memory with room for all of its data is filled, and all of it sent out by `evict`; then it is waited until it is
cold (cold.settle). zram's bytes are those of the same pages on a bare device. Cold faults are timed twice, of pages
that are out, touched once each, at random; the sides alternate:
- with room: nothing has to leave for a page that comes. zram's process has its cgroup to itself, and its pages were all
  sent out by MADV_PAGEOUT;
- a quarter resident, where a page has to leave for each: zram's process is limited to that, and ours gets the same and
  what the pages take on the bare device, as in the comparison of `tmem bench`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from tmem.bench import kernel
from tmem.bench.data import Source, make, material_missing
from tmem.bench.footrows import STATES, Row, each, footprint_row, run_name
from tmem.bench.kernel import Need
from tmem.bench.machine import describe
from tmem.bench.measure import Run, Tell, run_worker
from tmem.bench.session import Skip, entry_missing, signals
from tmem.bench.undo import Changes, recover
from tmem.bench.walk import PAGE
from tmem.bench.zramstore import ZramBytes, zram_bytes
from tmem.memory import MINIMUM_RAM

__all__ = ["FAULTS", "FIRST", "Footprint"]

FAULTS = 8192
"""Cold pages touched in a run, or all where there are fewer: the 99th percentile then rests on eighty."""

# Of the data: what a run may take in all, so that no fault waits for the host of a virtual machine to find memory.
_WARM = 4

FIRST = "lz4"
"""The algorithm of zram that the limits are held against."""

_SECOND = "zstd"
_TRIES = 6  # of a process that the kernel kills under its limit
_RESIDENT = 4  # the part of the data that is resident where memory is pressed
_BESIDE = 4 << 20  # of the limit: what Python makes meanwhile


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
                        self._lacks(f"data {name}", left, "give it more --minutes")
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
            runs: dict[str, Run] = {}
            for state in STATES:
                for peer in self.peers:
                    runs[run_name(peer, state)] = self._peer(peer, state, source, changes)
                ram = budget(source.nbytes) if state == "roomy" else pressed(source.nbytes, runs, stores.get(FIRST))
                runs[run_name("ours", state)] = self._ours(state, source, ram)
            rounds.append(runs)
        return footprint_row(source.name, source.nbytes, rounds, stores)

    def _spec(self, state: str, source: Source) -> dict[str, Any]:
        return {
            "kind": "cold", "data": source.name, "bytes": source.nbytes, "seed": self.seed, "fd": source.fd,
            "advice": "", "faults": FAULTS, "columns": source.columns, "send_out": state == "roomy",
            "warm": _WARM,
        }  # fmt: skip

    def _ours(self, state: str, source: Source, ram: int) -> Run:
        return run_worker(self._spec(state, source) | {"memory": "tmem", "ram": ram, "entry": self.entry}, None)

    def _peer(self, algorithm: str, state: str, source: Source, changes: Changes) -> Run:
        """Run the process under zram; again where the kernel kills it, which is told."""
        spec = self._spec(state, source) | {"memory": "anonymous", "small_pages": True}
        share = budget(source.nbytes) if state == "roomy" else source.nbytes // _RESIDENT
        limit = share + source.nbytes // 256 + _BESIDE  # page tables are charged to the group
        killed = 0
        while True:
            with kernel.room(changes, Need("zram", algorithm), limit, source.nbytes) as room:
                run = run_worker(spec, room)
            run.killed = killed = killed + bool(run.ended)
            if not run.ended or killed == _TRIES:
                return run


def budget(nbytes: int) -> int:
    """Return a budget for ours in which all data has room, packed or not: the store may take seven tenths of it."""
    return 2 * nbytes + (64 << 20)


def pressed(nbytes: int, runs: dict[str, Run], store: ZramBytes | None) -> int:
    """Return a budget for a quarter of the data and what the rest of it may take: as with zram, or as ours took."""
    out = nbytes // PAGE - nbytes // PAGE // _RESIDENT
    bytes_each = store.each if store else each(runs[run_name("ours", "roomy")], "cold") or PAGE
    return max(MINIMUM_RAM, nbytes // _RESIDENT + int(out * bytes_each))
