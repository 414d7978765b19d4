# SPDX-License-Identifier: Apache-2.0
"""Other people's test suites pass inside tmem.limit while every page is sent out again and again.

NumPy's and pandas' own tests verify their results, so a byte that came back wrong would fail one of them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parent / "worker.py"
MILLION = 1_000_000
SECONDS = 1500

pytestmark = [pytest.mark.long, pytest.mark.timeout(SECONDS + 60)]

# Of pandas: the tests of what allocates and moves most, by the paths of its test package.
PANDAS = ("groupby", "reshape", "reductions", "frame/methods", "series/methods", "algos", "window")


def _run(run_worker: Any, entry: str, every: int, which: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = run_worker(WORKER, {"entry": entry, "every": every, "pytest": which}, SECONDS)
    assert answer["bad"] == []
    assert answer["code"] == 0, answer
    assert answer["broken"] == []
    assert (answer["entry"], answer["overshoot_events"]) == (entry, 0)
    return answer


def test_numpy(run_worker: Any, entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some of its tests build extensions; meson comes with the test extra.
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    for tool in ("meson", "ninja", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"NumPy's own tests need {tool}")
    answer = _run(run_worker, entry, 60, ["--pyargs", "numpy._core", "-m", "not slow"])
    assert answer["counts"]["passed"] > 30_000
    assert answer["blocks"]["paged"] > 10 * MILLION
    assert answer["evictions"] >= MILLION
    assert answer["faults"] >= MILLION


def test_pandas(run_worker: Any, entry: str) -> None:
    spec = importlib.util.find_spec("pandas")
    if spec is None or spec.origin is None:
        pytest.skip("pandas is not installed")
    tests = Path(spec.origin).parent / "tests"
    answer = _run(run_worker, entry, 2000, ["-m", "not slow and not network", *(str(tests / part) for part in PANDAS)])
    assert answer["counts"]["passed"] > 10_000
    assert answer["evictions"] >= MILLION // 10
    assert answer["faults"] >= MILLION // 10
