# SPDX-License-Identifier: Apache-2.0
"""Everything at once, and every byte verified: threads write, read, pin, free, allocate; others evict, settle, fork."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parent / "worker.py"
BUDGET = 16 << 20
# Of the test that `make stress` runs for ten minutes.
LONG = int(os.environ.get("TMEM_STRESS_SECONDS", "90"))

Run = Callable[[Path, dict[str, Any], float], dict[str, Any]]


def _stress(run: Run, entry: str, seconds: float, **others: Any) -> dict[str, int]:
    arguments = {
        "entry": entry,
        "budget": BUDGET,
        "seconds": seconds,
        "seed": random.getrandbits(32),
        "nobody": False,
        "budgets": 4,
        "threads": 4,
        "swap": "auto",
        "dedup": "auto",
        "small": False,
    }
    told = run(WORKER, arguments | others, seconds + 90)
    assert told["broken"] == []
    stats: dict[str, int] = told["stats"]
    assert stats["evictions"] > 0
    assert stats["forks"] > 0
    assert {"verify", "rewrite", "evict", "replace", "evict from beside", "settle", "fork"} <= told["done"].keys()
    return stats


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(3, id="seconds"),
        pytest.param(150, id="minutes", marks=[pytest.mark.long, pytest.mark.timeout(270)]),
    ],
)
def test_every_byte_is_right(run_worker: Run, entry: str, seconds: float) -> None:
    _stress(run_worker, entry, seconds)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(5, id="seconds"),
        pytest.param(LONG, id="minutes", marks=[pytest.mark.long, pytest.mark.timeout(LONG + 160)]),
    ],
)
def test_every_byte_is_right_while_pages_change_their_forms_and_go_down(
    run_worker: Run, entry: str, seconds: float
) -> None:
    """All that is stored is looked up, packed again when cold, and written back; now and then nothing has room."""
    stats = _stress(run_worker, entry, seconds, budgets=4.5, threads=2, swap="16M", dedup="on", small=True)
    assert min(stats[name] for name in ("recoded", "written_back", "dedup_found", "swap_loads")) > 0


@pytest.mark.root
@pytest.mark.long
@pytest.mark.usefixtures("need_root")
def test_every_byte_is_right_for_a_plain_user(run_worker: Run, entry: str) -> None:
    _stress(run_worker, entry, 10, nobody=True)
