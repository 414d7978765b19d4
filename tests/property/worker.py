# SPDX-License-Identifier: Apache-2.0
"""One program over far more than its budget, in a process whose peak is that of the program alone.

The argument is JSON: the entry, the budget, the program's operations, how many budgets to allocate in all, whether to
fork, and the directory of a memory cgroup to move into, if any. What is read is compared with what must be there; that
is made anew from seeds, piece by piece, so that no second copy of the arrays lives beside the budget. The last line
told is JSON: peaks above baselines.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

ARGUMENTS: dict[str, Any] = json.loads(sys.argv[1])
if ARGUMENTS["group"]:  # first of all, so that everything this process takes is charged to the group
    (Path(ARGUMENTS["group"]) / "cgroup.procs").write_text(str(os.getpid()))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

import tmem  # noqa: E402

Bytes = npt.NDArray[np.uint8]

PIECE = 64 << 10
PAGE = 4096
REPEAT = 128  # words of a compressible page that are not a repetition
LIVE = 4  # budgets that the arrays alive come to at most
FORK_AFTER = 3  # budgets allocated before the fork
STRIDE = 4  # of what a read covers, one piece in so many is compared

NOISE = np.random.default_rng(0).integers(0, 1 << 64, 1 << 17, dtype=np.uint64)
WANTED = np.zeros(PIECE // 8, np.uint64)


def wanted(kind: str, seed: int) -> Bytes:
    """Make what a piece holds in the one buffer there is."""
    key = np.uint64(seed * 0x9E3779B97F4A7C15 % (1 << 64))
    start = seed * 31 % (NOISE.size - WANTED.size)
    if kind == "noise":
        np.bitwise_xor(NOISE[start : start + WANTED.size], key, out=WANTED)
    elif kind == "compressible":
        pages = WANTED.reshape(PIECE // PAGE, -1, REPEAT)
        part = NOISE[start : start + pages.shape[0] * REPEAT].reshape(-1, 1, REPEAT)
        np.bitwise_xor(part, key, out=pages)
    else:
        WANTED.view(np.uint8).fill(seed % 256)
    return WANTED.view(np.uint8)


class Shadowed:
    """An array, and for each piece of it what was last written there."""

    def __init__(self, array: Bytes) -> None:
        self.array = array
        self.pieces = [("byte", 0)] * -(-array.size // PIECE)
        self.single: dict[int, int] = {}

    def span(self, start: int, stop: int) -> range:
        """Return the pieces between two sixteenths of the array, at least one."""
        count = len(self.pieces)
        first = min(start * count // 16, count - 1)
        return range(first, max(first + 1, stop * count // 16))

    def write(self, piece: int, kind: str, seed: int) -> None:
        """Fill a piece."""
        part = self.array[piece * PIECE : (piece + 1) * PIECE]
        part[:] = wanted(kind, seed)[: part.size]
        self.pieces[piece] = (kind, seed)
        self.single.pop(piece, None)

    def write_one(self, piece: int, seed: int) -> None:
        """Change the first byte of each page of a piece and nothing else."""
        self.array[piece * PIECE : (piece + 1) * PIECE : PAGE] = seed % 256
        self.single[piece] = seed % 256

    def read(self, piece: int) -> None:
        """Compare a piece with what must be there."""
        part = self.array[piece * PIECE : (piece + 1) * PIECE]
        right = wanted(*self.pieces[piece])
        if piece in self.single:
            right[::PAGE] = self.single[piece]
        if not np.array_equal(part, right[: part.size]):
            at = int((part != right[: part.size]).argmax())
            sys.exit(f"wrong byte {at} of piece {piece} of {self.array.size} bytes: {self.pieces[piece]}")


class Child:
    """A forked child that works on what it inherited, then waits to be ended."""

    def __init__(self, run: Run) -> None:
        told, telling = os.pipe()
        waiting, self.ending = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.ending)
            os._exit(_in_child(run, telling, waiting))
        os.close(telling)
        os.close(waiting)
        self.told = os.fdopen(told)
        self.told.readline()
        self.peak = 0

    def end(self) -> int:
        """Let it compare what it has again and go, unless it has gone; return its peak."""
        if not self.told.closed:
            os.close(self.ending)
            with self.told:
                last = self.told.readline()
            _, status = os.waitpid(self.pid, 0)
            if status != 0:
                sys.exit(f"the child ended with {status}")
            self.peak = int(last)
        return self.peak


def _in_child(run: Run, telling: int, waiting: int) -> int:
    try:
        for item in run.live:
            for piece in range(0, len(item.pieces), 8):
                item.read(piece)
                item.write(piece, "noise", piece)
        os.write(telling, b"ready\n")
        os.read(waiting, 1)
        run.read_all()
        os.write(telling, f"{peak()}\n".encode())
    except BaseException as error:  # noqa: BLE001 - the parent tells
        print(f"in the child: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
        return 1
    return 0


class Run:
    """The arrays of one program."""

    def __init__(self, memory: tmem.Memory) -> None:
        self.memory = memory
        self.live: list[Shadowed] = []
        self.allocated = 0
        self.serial = 0  # what is written in a second round of the program differs from the first

    def do(self, verb: str, *numbers: Any) -> None:
        """Do one operation; those on arrays do nothing while there is none."""
        self.serial += 1
        if verb == "allocate":
            self.allocate(*numbers)
        elif self.live:
            which, *rest = numbers
            getattr(self, verb)(self.live[which % len(self.live)], *rest)

    def allocate(self, size: int) -> None:
        """Make an array; the oldest go where it would be too much."""
        while self.live and sum(item.array.size for item in self.live) + size > LIVE * self.memory.ram:
            self.free(self.live[0])
        self.live.append(Shadowed(self.memory.zeros(size, "u1")))
        self.allocated += size

    def write(self, item: Shadowed, start: int, stop: int, kind: str) -> None:
        """Write a part of an array, or one byte of each page of it."""
        for piece in item.span(start, stop):
            if kind == "one":
                item.write_one(piece, self.serial)
            else:
                item.write(piece, kind, self.serial * 1000 + piece)

    def read(self, item: Shadowed, start: int, stop: int) -> None:
        """Compare a part of an array: other pieces each time."""
        span = item.span(start, stop)
        for piece in span[self.serial % min(STRIDE, len(span)) :: STRIDE]:
            item.read(piece)

    def free(self, item: Shadowed) -> None:
        """Let an array go."""
        self.live.remove(item)

    def read_all(self) -> None:
        """Compare some of everything, and walk the tables."""
        for item in self.live:
            self.read(item, 0, 16)
        if broken := self.memory.check():
            sys.exit(f"broken: {broken}")


def peak() -> int:
    """Return the peak of this process's resident set, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def reset_peak() -> None:
    """Let the peak begin at what is resident now, where that is permitted; else it begins at the imports' peak."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Group:
    """What a memory cgroup of either version counts from now on."""

    def __init__(self, directory: str) -> None:
        where = Path(directory)
        first = (where / "memory.max_usage_in_bytes").exists()
        self.peak = (where / ("memory.max_usage_in_bytes" if first else "memory.peak")).open("r+b", buffering=0)
        self.restart()
        self.baseline = int((where / ("memory.usage_in_bytes" if first else "memory.current")).read_text())

    def restart(self) -> None:
        """Let the peak begin at what is charged now: version 2 does that for the descriptor, since Linux 6.12."""
        self.peak.write(b"0")

    def above(self) -> int:
        """Return how far the peak is above the baseline, in bytes."""
        return int(os.pread(self.peak.fileno(), 64, 0)) - self.baseline


def main() -> None:
    """Do the program, measure its peaks, compare what it left."""
    warnings.simplefilter("error", tmem.TmemWarning)
    memory = tmem.Memory(ARGUMENTS["budget"], faults=ARGUMENTS["entry"])
    run = Run(memory)
    group = Group(ARGUMENTS["group"]) if ARGUMENTS["group"] else None
    reset_peak()
    baseline = peak()
    children = run_program(run, group)
    above = {"process": peak() - baseline}
    if children:
        above["child"] = max(child.end() for child in children) - baseline
    if group is not None:
        above["group"] = group.above()
    stats = memory.stats()
    counts = {"evictions": stats.evictions, "overshoots": stats.overshoot_events, "store": stats.store_bytes}
    print(json.dumps({"above": above, **counts}))  # noqa: T201


def run_program(run: Run, group: Group | None) -> list[Child]:
    """Do the operations over and over until the arrays come to `total` budgets; fork on the way if asked to."""
    children: list[Child] = []
    for operation in itertools.cycle(ARGUMENTS["program"]):
        if run.allocated >= ARGUMENTS["total"] * run.memory.ram:
            break
        run.do(*operation)
        if ARGUMENTS["child"] and not children and run.allocated >= FORK_AFTER * run.memory.ram:
            children.append(Child(run))
            if ARGUMENTS["child"] == "gone":
                children[0].end()
                if group is not None:
                    group.restart()  # until now there were two processes
    run.read_all()
    return children


main()
