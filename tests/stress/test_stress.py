# SPDX-License-Identifier: Apache-2.0
"""Everything at once, and every byte verified: threads write, read, pin, free and allocate, others evict and fork."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parent / "worker.py"
BUDGET = 16 << 20

Run = Callable[[Path, dict[str, Any], float], dict[str, Any]]


def _stress(run: Run, entry: str, seconds: float, *, nobody: bool = False) -> None:
    arguments = {"entry": entry, "budget": BUDGET, "seconds": seconds, "seed": random.getrandbits(32), "nobody": nobody}
    told = run(WORKER, arguments, seconds + 60)
    assert told["broken"] == []
    assert told["evictions"] > 0
    assert told["forks"] > 0
    assert {"verify", "rewrite", "pin", "evict", "replace", "evict from beside", "fork"} <= told["done"].keys()


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(3, id="seconds"),
        pytest.param(300, id="minutes", marks=[pytest.mark.long, pytest.mark.timeout(420)]),
    ],
)
def test_every_byte_is_right(run_worker: Run, entry: str, seconds: float) -> None:
    _stress(run_worker, entry, seconds)


@pytest.mark.root
@pytest.mark.long
@pytest.mark.usefixtures("need_root")
def test_every_byte_is_right_for_a_plain_user(run_worker: Run, entry: str) -> None:
    _stress(run_worker, entry, 10, nobody=True)
