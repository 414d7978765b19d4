# SPDX-License-Identifier: Apache-2.0
"""How a program is started under `tmem run`, and what its report must say: for the tests beside it."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools.programs.launch import Job, Ran, launch

TMEM = Path(sysconfig.get_path("scripts"), "tmem")
RAM = 64 << 20
SECONDS = 400.0
SHARE = 0.7

Report = dict[str, Any]
FIELDS = {
    "version", "program", "pid", "ram", "wall_s", "processes", "peak_managed", "peak_resident", "peak_tree", "ratio",
    "swap_used", "faults", "evictions", "stall_s", "managed", "unmanaged", "share", "entry", "refusals",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Under:
    """Starts jobs under `tmem run` with one fault entry, `auto` for the one it chooses."""

    reports: Path
    faults: str = "auto"

    def __call__(self, job: Job, directory: Path, ram: int = RAM, seconds: float = SECONDS) -> tuple[Ran, Report]:
        """Run a job to its end; return what came of it and its report. The test fails where there is none."""
        assert TMEM.exists(), f"no {TMEM}: make build"
        report = self.reports / "report.json"
        report.unlink(missing_ok=True)
        ran = launch(job, directory, [*prefix(ram, report, self.faults), "--"], seconds)
        if not report.exists():
            pytest.fail(f"no report; ended with {ran.code} after {ran.seconds:.0f} s: {ran.errors}")
        told: Report = json.loads(report.read_text(encoding="utf-8"))
        assert told.keys() >= FIELDS
        assert (told["version"], told["ram"]) == (1, ram)
        if self.faults != "auto":
            assert told["entry"] == self.faults
        return ran, told


def prefix(ram: int, report: Path, faults: str = "auto") -> Sequence[str]:
    """Return the words that put a program under a budget, without the `--` before its own."""
    return [str(TMEM), "run", "--ram", str(ram), "--faults", faults, "--json", str(report)]


def most(ram: int) -> int:
    """Return what the thirteenth law lets a budget be, in bytes."""
    return ram + ram // 20 + (16 << 20)


def assert_paged(told: Report) -> None:
    """Hold a report to what is asked of one: pages went out and came back, within the budget, and most were ours."""
    assert told["evictions"] > 0, told
    assert told["faults"] > 0, told
    assert told["share"] >= SHARE, told
    assert told["share"] == pytest.approx(told["managed"] / (told["managed"] + told["unmanaged"]), abs=0.01), told
    # The sum of the processes' own peaks, which need not come at one time.
    assert 0 < told["peak_resident"] <= told["processes"] * most(told["ram"]), told
    assert told["peak_managed"] > told["ram"], told
    assert told["peak_tree"] <= most(told["ram"]), told
