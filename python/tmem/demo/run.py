# SPDX-License-Identifier: Apache-2.0
"""The demonstration from end to end: grow the table, do the work twice, compare.

Owns: the order of things and their clean-up. Called by cli. Calls recipe, and worker in processes of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmem.demo.jobs import JOBS
from tmem.demo.recipe import Table, copies_for, grow, read_seed, read_table
from tmem.demo.warm import warm
from tmem.errors import SizeError, SwapError, TmemError
from tmem.limits import allowance
from tmem.memory import MINIMUM_RAM
from tmem.swapdir import plan_swap
from tmem.units import format_size

__all__ = ["SMALLEST", "Outcome", "Progress", "run_demo", "slack"]

QUARTER = 4
SMALLEST = QUARTER * MINIMUM_RAM
_STAGES = 2 + len(JOBS)
_HEADROOM = 1.25  # the plain run: the table, the largest result, the interpreter

Progress = Callable[[str, float], None]
"""Told what is going on, and how much of the whole is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured. `plain` is None where the machine has no room for the table in plain memory."""

    table: int
    rows: int
    budget: int
    paged: dict[str, Any]
    plain: dict[str, Any] | None

    @property
    def equal(self) -> bool | None:
        """Whether both runs gave the same results bit for bit; None with only one run."""
        return None if self.plain is None else self.plain["digests"] == self.paged["digests"]

    @property
    def held(self) -> bool:
        """Whether the budget held, with the slack that is promised."""
        return bool(self.paged["peak"] <= self.budget + slack(self.budget))


def slack(budget: int) -> int:
    """Return by how much the kernel's count may exceed a budget: 16 MiB and 5 %."""
    return (16 << 20) + budget // 20


def run_demo(size: int, faults: str, progress: Progress) -> Outcome:
    """Grow the table to `size` bytes and run the jobs with a quarter of that as budget, and in plain memory.

    SizeError for less than 64 MiB, SwapError without room on a disk, TmemError where a run fails.
    """
    if size < SMALLEST:
        raise SizeError(f"size of {format_size(size)} is too small: the demonstration needs {format_size(SMALLEST)}")
    place = _scratch(size)
    with tempfile.TemporaryDirectory(prefix="tmem-demo-", dir=place) as name:
        directory = Path(name)
        table = _grown(size, directory, progress)
        budget = max(MINIMUM_RAM, table.nbytes // QUARTER)
        fits = table.nbytes * _HEADROOM < allowance().count
        if fits:
            warm(table.nbytes)
        paged = _measure(directory, budget, faults, lambda what, done: progress(what, 0.2 + 0.6 * done))
        plain = None
        if fits:
            warm(table.nbytes)
            plain = _measure(directory, 0, faults, lambda what, done: progress(what, 0.8 + 0.2 * done))
        progress("done", 1.0)
        return Outcome(table.nbytes, table.rows, budget, paged, plain)


def _scratch(size: int) -> str:
    """Return a directory on a disk with room for the table and for a swap device."""
    place = plan_swap("auto", size).directory
    if place is None:
        raise SwapError("no directory on a disk for the table: set TMPDIR to one")
    free = shutil.disk_usage(place).free
    if free < 2 * size:
        raise SwapError(
            f"{place} has {format_size(free)} free, {format_size(2 * size)} are needed: set TMPDIR, or --size"
        )
    return place


def _grown(size: int, directory: Path, progress: Progress) -> Table:
    progress("reading the flights of 2013", 0.0)
    seed = read_seed()
    copies = copies_for(seed, size)
    for copy in grow(seed, copies, directory):
        progress("growing the table", 0.2 * (copy + 1) / copies)
    return read_table(directory)


def _measure(directory: Path, budget: int, faults: str, progress: Progress) -> dict[str, Any]:
    """Run a worker to its end, passing on what it says, and return what it measured."""
    command = [sys.executable, "-m", "tmem.demo.worker", str(directory), str(budget), faults]
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    where = "with tmem" if budget else "in plain memory"
    errors = directory / "stderr"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(  # noqa: S603 - our own module, our own arguments
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            text=True,
            env=os.environ | one_thread,
        ) as worker,
    ):
        try:
            measured = _listen(worker, where, progress)
        except BaseException:
            worker.kill()
            raise
    if worker.returncode or measured is None:
        raise TmemError(f"the run {where} ended with {_ending(worker.returncode)}:\n{errors.read_text()[-2000:]}")
    return measured


def _listen(worker: subprocess.Popen[str], where: str, progress: Progress) -> dict[str, Any] | None:
    measured: dict[str, Any] | None = None
    stage = 0
    for line in worker.stdout or ():
        said = json.loads(line)
        if "stage" in said:
            progress(f"{where}: {said['stage']}", stage / _STAGES)
            stage += 1
        measured = said.get("measured", measured)
    return measured


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
