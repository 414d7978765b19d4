# SPDX-License-Identifier: Apache-2.0
"""What `tmem.limit` costs code that knows nothing of it: below its budget, and at four times its budget.

`python -m benches.unchanged_code [--rounds N] [--save]`. Every round runs each job in plain memory and under the limit,
in turns, in one process; results are compared. Times are seconds; the ratio is limit's over plain's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tmem
from benches import machine
from tmem.demo.warm import warm

BELOW, PAST = "2G", "128M"


def temporaries(count: int, repeat: int) -> Callable[[], float]:
    """Make a job of arithmetic whose every step makes an array of `count` numbers and drops another."""

    def job() -> float:
        total = 0.0
        for step in range(repeat):
            a = np.arange(count, dtype="f8") + step
            b = np.sqrt(a) * 2 + 1
            total += float(np.concatenate([a, b]).sum())
        return total

    return job


def sort_and_group(rows: int) -> Callable[[], float]:
    """Make a job of a random table: sort it, group it, filter it."""

    def job() -> float:
        rng = np.random.default_rng(1)
        key, value = rng.integers(0, 1000, rows), rng.integers(0, 1000, rows)
        order = np.argsort(key, kind="stable")
        sums = np.add.reduceat(value[order], np.searchsorted(key[order], np.arange(1000)))
        return float(sums.max() + value[key > 500].sum())

    return job


def whole_columns(rows: int) -> Callable[[], float]:
    """Make a job over columns in order, with temporaries as large as they are."""

    def job() -> float:
        ids = np.arange(rows)
        group = ids // 64 % 1000
        total = np.cumsum(group)
        scaled = (total - total.min()) // 7
        return float(scaled[group > 500].sum() + (group * 3 + ids % 5).max())

    return job


JOBS: tuple[tuple[str, str, Callable[[], float]], ...] = (
    ("temporaries of 80 KB", BELOW, temporaries(10_000, 2000)),
    ("temporaries of 800 KB", BELOW, temporaries(100_000, 200)),
    ("temporaries of 8 MB", BELOW, temporaries(1_000_000, 20)),
    ("sort, group, filter, 4 M rows", BELOW, sort_and_group(4_000_000)),
    ("whole columns, 8 M rows", BELOW, whole_columns(8_000_000)),
    ("whole columns, 16 M rows: four times the budget and more", PAST, whole_columns(16_000_000)),
)


def measure(job: Callable[[], float], budget: str, rounds: int) -> dict[str, Any]:
    """Time the job in plain memory and under a limit, in turns."""
    plain, limited, expected = [], [], job()  # the first run warms both up
    with tmem.limit(budget, swap="8G") as limit:
        job()
    for _ in range(rounds):
        warm(1 << 30)
        begin = time.perf_counter()
        assert job() == expected  # noqa: S101
        plain.append(time.perf_counter() - begin)
        warm(1 << 30)
        with limit:
            begin = time.perf_counter()
            assert job() == expected  # noqa: S101
            limited.append(time.perf_counter() - begin)
    stats = limit.stats()
    limit.close()
    ratios = [ours / theirs for ours, theirs in zip(limited, plain, strict=True)]
    return {
        "budget": budget,
        "plain_s": plain,
        "limit_s": limited,
        "ratio": statistics.median(ratios),
        "ratio_rounds": ratios,
        "armed": stats.armed,
        "evictions": stats.evictions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    result: dict[str, Any] = {"machine": machine.describe(), "rounds": given.rounds, "jobs": {}}
    print("| job | budget | plain, s | under the limit, s | ratio (spread) |\n| --- | ---: | ---: | ---: | ---: |")
    for name, budget, job in JOBS:
        found = result["jobs"][name] = measure(job, budget, given.rounds)
        ratios = found["ratio_rounds"]
        print(f"| {name} | {budget} | {statistics.median(found['plain_s']):.3f} ", end="")
        print(f"| {statistics.median(found['limit_s']):.3f} ", end="")
        print(f"| {found['ratio']:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |", flush=True)
    if given.save:
        machine.save("unchanged_code", result)


if __name__ == "__main__":
    main()
