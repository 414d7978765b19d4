# SPDX-License-Identifier: Apache-2.0
"""Runs the plan: rounds in which peers and ours alternate, each in a process of its own.

Owns: one run, and who gets how much memory. Called by cli. Calls worker in processes, kernel for their limits, data.
Law: ours gets what the peer of the same round had: the limit of its resident pages and the peak of its pool. What does
not verify ends everything; a peer that the kernel kills for want of memory is a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from tmem.bench import kernel
from tmem.bench.data import Source, make
from tmem.bench.peers import PEERS
from tmem.bench.plan import FITS, Cell, Clock
from tmem.bench.undo import Changes
from tmem.demo.warm import warm
from tmem.errors import TmemError
from tmem.memory import MINIMUM_RAM

__all__ = ["Measured", "Run", "measure", "run_worker"]

_TEMPORARIES = {"walk": 2 << 20, "jobs": 12 << 20}  # of the peer's limit: pieces, and what Python makes meanwhile
_LONGEST = 150.0
_TRIES = 6  # of a peer that the kernel kills: each is counted and told
_KILLED = "killed by the kernel, for want of memory under its limit"
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Tell = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """What one process measured: steps by name, its peak, its budget or limit, and its pool's peak, in bytes.

    `ended` says why it did not come to its end; `killed` is how many tries the kernel killed, this one included.
    """

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: str = ""
    killed: int = 0
    peak: int = 0
    budget: int = 0
    pool: int = 0
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def memory(self) -> int:
        """What it had: the limit with the pool's peak, or where there is no limit what it took."""
        return self.budget + self.pool if self.budget else self.peak


@dataclass(slots=True)
class Measured:
    """A cell and its rounds: runs by name, which is a peer's or `ENTRY@BUDGET` of ours."""

    cell: Cell
    rounds: list[dict[str, Run]] = field(default_factory=list)


def measure(
    cells: list[Cell], seed: int, changes: Changes, tell: Tell, seconds: float
) -> Iterator[Measured | tuple[Cell, str]]:
    """Yield each cell when it was measured, or with the reason why not: there is no time left."""
    end, clock = time.monotonic() + seconds, Clock()
    for (data, nbytes), group in groupby(cells, key=lambda cell: (cell.data, cell.nbytes)):
        with contextlib.ExitStack() as stack:
            source = None
            for cell in group:
                left = end - time.monotonic()
                if clock.seconds(cell) > left:
                    yield cell, f"about {clock.seconds(cell):.0f} s are needed, and {max(0.0, left):.0f} s were left"
                    continue
                if source is None:
                    tell(f"making {data}")
                    source = stack.enter_context(make(data, nbytes, seed))
                yield _rounds(cell, source, seed, changes, clock, tell)


def _rounds(cell: Cell, source: Source, seed: int, changes: Changes, clock: Clock, tell: Tell) -> Measured:
    measured = Measured(cell)
    for number in range(cell.rounds):
        told = f"{cell.name}: round {number + 1} of {cell.rounds}"
        runs: dict[str, Run] = {}
        for name, work in _round(cell, source, seed, changes):
            tell(f"{told}, {name}")
            begin = time.monotonic()
            runs[name] = work(runs)
            clock.learn(cell, "ours" if "@" in name else name, time.monotonic() - begin)
        _same_results(cell, runs)
        measured.rounds.append(runs)
    return measured


Work = Callable[[dict[str, Run]], Run]


def _round(cell: Cell, source: Source, seed: int, changes: Changes) -> Iterator[tuple[str, Work]]:
    """Yield who runs, and how: for each budget its peers, and behind them ours with the memory of the first of them."""
    spec = {
        "kind": cell.kind, "data": cell.data, "bytes": cell.nbytes, "seed": seed, "threads": cell.threads,
        "steps": _steps(cell), "fd": source.fd, "columns": source.columns, "advice": "", "seconds": 0.0,
    }  # fmt: skip
    for peer in cell.peers:
        if not PEERS[peer].budget:
            yield peer, lambda _runs: run_worker(spec | {"memory": "plain"}, None)
    for budget in cell.budgets():
        peers = [peer for peer in cell.peers if PEERS[peer].budget == budget]
        for peer in peers:
            yield peer, lambda _runs, peer=peer: _peer(peer, spec, cell, changes)  # type: ignore[misc]
        for entry in cell.entries:
            name = f"{entry}@{budget}"
            yield name, lambda runs, e=entry, p=tuple(peers): _ours(spec, _allowed(cell, runs, p), e)  # type: ignore[misc]


def _steps(cell: Cell) -> list[str]:
    """Return the steps of a worker: a memory is filled before anything else, asked for or not."""
    return list(cell.steps) if cell.kind == "jobs" or "fill" in cell.steps else ["fill", *cell.steps]


def _limit(cell: Cell) -> int:
    return int(cell.nbytes * cell.residency) + ((16 << 20) if cell.residency == FITS else 0)


def _allowed(cell: Cell, runs: dict[str, Run], peers: tuple[str, ...]) -> int:
    """Return the budget for ours: what the first peer of this round had."""
    if not peers:
        return max(MINIMUM_RAM, _limit(cell))
    first = runs[peers[0]]
    return max(MINIMUM_RAM, first.memory)


def _ours(spec: dict[str, Any], ram: int, entry: str) -> Run:
    run = run_worker(spec | {"memory": "tmem", "ram": ram, "entry": entry}, None)
    run.budget = ram
    return run


def _peer(name: str, spec: dict[str, Any], cell: Cell, changes: Changes) -> Run:
    """Run a peer, and when the kernel kills it again: of the tries the one that came farthest."""
    tries: list[Run] = []
    while not tries or (tries[-1].ended == _KILLED and len(tries) < _TRIES):
        tries.append(_try(name, spec, cell, changes))
    best = max(tries, key=lambda run: (not run.ended, len(run.steps)))
    best.killed = sum(run.ended == _KILLED for run in tries)
    return best


def _try(name: str, spec: dict[str, Any], cell: Cell, changes: Changes) -> Run:
    """Run a peer; the kernel's under the limit, to which comes what is in no budget of ours."""
    peer = PEERS[name]
    memory = "plain" if cell.kind == "jobs" and peer.memory == "anonymous" else peer.memory
    spec = spec | {
        "memory": memory,
        "advice": peer.advice,
        "seconds": peer.seconds,
        "small_pages": peer.advice != "huge",
    }
    if peer.need is None:
        return run_worker(spec, None)
    limit = _limit(cell)
    beside = cell.nbytes // 256 + _TEMPORARIES[cell.kind]  # page tables are charged to the group
    with kernel.room(changes, peer.need, limit + beside, cell.nbytes) as room:
        run = run_worker(spec | {"directory": str(room.directory)}, room)
        run.budget, run.pool, run.peak = limit, room.pool_peak(), max(0, room.peak() - beside)
    return run


def run_worker(spec: dict[str, Any], room: kernel.Room | None) -> Run:
    """Run one worker to its end. TmemError where it fails; killed under a limit, it tells what it had done."""
    warm(int(spec["bytes"] * spec.get("warm", 1.5)))
    command = [sys.executable, "-m", "tmem.bench.worker", json.dumps(spec)]
    run = Run()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(  # noqa: S603 - our own module, our own arguments
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            pass_fds=[spec["fd"]], env=_environment(spec),
        ) as child,
    ):  # fmt: skip
        try:
            out, late = _talk(child, room)
        except BaseException:
            child.kill()
            raise
        broken = _note(run, out)
        if late:
            run.ended = f"not done after {_LONGEST:.0f} s"
        elif room is not None and child.returncode == -9:  # noqa: PLR2004 - SIGKILL: by the kernel
            run.ended = _KILLED
        if (child.returncode and not run.ended) or broken:
            errors.seek(0)
            raise TmemError(
                f"the run of {spec['data']} in {spec['memory']} ended with {child.returncode}: {broken or ''}\n"
                f"{errors.read()[-2000:]}"
            )
    return run


def _environment(spec: dict[str, Any]) -> dict[str, str]:
    """NumPy asks for huge pages by itself; a peer that is measured without them is measured without these too."""
    return os.environ | _ONE_THREAD | ({"NUMPY_MADVISE_HUGEPAGE": "0"} if spec.get("small_pages") else {})


def _talk(child: subprocess.Popen[str], room: kernel.Room | None) -> tuple[str, bool]:
    """Let a worker work; return what it said, and whether it was ended because it took too long."""
    if child.stdout is None or child.stdout.readline().strip() != "ready":
        child.wait(10)
        return "", False
    if room:
        room.admit(child.pid)
    try:
        return child.communicate("go\n", timeout=_LONGEST)[0], False
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[0], True


def _note(run: Run, out: str) -> str:
    """Put what a worker said into its Run; return what is broken."""
    broken: list[str] = []
    for line in out.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # the last words of one that was killed
        if "step" in said:
            run.steps[said.pop("step")] = said
        run.peak = said.get("peak", run.peak)
        run.stats = said.get("stats", run.stats)
        broken += said.get("broken", [])
    return "; ".join(broken)


def _same_results(cell: Cell, runs: dict[str, Run]) -> None:
    """Every job must have the same result in every memory. TmemError where one has not."""
    for step in cell.steps:
        digests = {run.steps[step]["digest"] for run in runs.values() if "digest" in run.steps.get(step, {})}
        if len(digests) > 1:
            told = {name: run.steps.get(step, {}).get("digest") for name, run in runs.items()}
            raise TmemError(f"{cell.name}: the results of {step} differ: {told}")
