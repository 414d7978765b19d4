# SPDX-License-Identifier: Apache-2.0
"""Runs somebody else's tests inside tmem.limit, while all pages are sent out again and again; prints one JSON line.

A process of its own, told by JSON on the command line: `entry`, `every` (blocks between two evictions) and `pytest`,
the arguments that say which tests.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import tmem


class Results:
    """Counts the outcomes, and keeps the names of what failed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.bad: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.bad.append(f"{report.nodeid} ({report.when})\n{report.longreprtext[-2000:]}")
        if report.when == "call" or report.skipped:
            self.counts[report.outcome] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.bad.append(f"{report.nodeid} (collection)\n{report.longreprtext[-2000:]}")


def main() -> None:
    told = json.loads(sys.argv[1])
    results = Results()
    limit = tmem.limit("32M", threshold=4096, small="packed", faults=told["entry"], swap="4G")
    limit.evict_every(told["every"])
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        plain = ["-q", "--no-header", "-c", f"{directory}/pytest.ini", "--rootdir", directory, "-p", "no:cacheprovider"]
        # Its watchdog blocks every signal, the guard's too; the timeout of the whole is the caller's.
        plain += ["-p", "no:faulthandler", "-p", "no:timeout", "-W", "ignore"]
        with limit:
            code = int(pytest.main([*plain, *told["pytest"]], plugins=[results]))
        stats = limit.stats()
    counters = ("armed", "entry", "faults", "evictions", "clean_evictions", "swap_stores", "overshoot_events")
    answer: dict[str, Any] = {name: getattr(stats, name) for name in counters}
    answer |= {"code": code, "counts": results.counts, "bad": results.bad, "blocks": limit.blocks()}
    answer["broken"] = limit.memory.check()
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
