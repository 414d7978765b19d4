# SPDX-License-Identifier: Apache-2.0
"""Other people's test suites pass inside tmem.limit while every page is sent out again and again.

NumPy's and pandas' own tests verify their results, so a byte that came back wrong would fail one of them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parent / "worker.py"
MILLION = 1_000_000
SECONDS = 1500

pytestmark = [pytest.mark.long, pytest.mark.timeout(SECONDS + 60)]

Answer = dict[str, Any]
Answers = dict[str, Answer | BaseException]

# Of pandas: what allocates and moves most, by the directories of its test package.
PANDAS = ("reductions", "reshape", "frame/methods", "series/methods", "groupby/methods", "groupby/aggregate")
# It ranks a column of 128 MiB, in random order, in a quarter of that: right, but a matter of hours.
PANDAS_NOT = "test_pct_max_many_rows"


def _both_at_once(run_worker: Any, entries: list[str], every: int, which: list[str]) -> Answers:
    """Run the tests under every entry that this machine permits, side by side: two processors, half the time."""

    def run(entry: str) -> Answer | BaseException:
        try:
            answer: Answer = run_worker(WORKER, {"entry": entry, "every": every, "pytest": which}, SECONDS)
        except BaseException as error:  # noqa: BLE001 - raised again by the test of that entry
            return error
        return answer

    with ThreadPoolExecutor() as pool:
        return dict(zip(entries, pool.map(run, entries), strict=True))


@pytest.fixture(scope="module")
def numpy_answers(run_worker: Any, entries: list[str]) -> Answers:
    with pytest.MonkeyPatch.context() as patch:
        # Some of its tests build extensions; meson comes with the test extra.
        patch.setenv("PATH", f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
        for tool in ("meson", "ninja", "gcc"):
            if shutil.which(tool) is None:
                pytest.skip(f"NumPy's own tests need {tool}")
        return _both_at_once(run_worker, entries, 40, ["--pyargs", "numpy._core", "-m", "not slow"])


@pytest.fixture(scope="module")
def pandas_answers(run_worker: Any, entries: list[str]) -> Answers:
    spec = importlib.util.find_spec("pandas")
    if spec is None or spec.origin is None:
        pytest.skip("pandas is not installed")
    tests = Path(spec.origin).parent / "tests"
    # The wheel has the tests, but not all files of data that they read.
    which = [
        "--no-strict-data-files",
        "-m",
        "not slow and not network",
        "-k",
        f"not {PANDAS_NOT}",
        *(str(tests / part) for part in PANDAS),
    ]
    return _both_at_once(run_worker, entries, 6, which)


def _sound(answers: Answers, entry: str) -> Answer:
    answer = answers[entry]
    if isinstance(answer, BaseException):
        raise answer
    assert answer["bad"] == []
    assert answer["code"] == 0, answer
    assert answer["broken"] == []
    assert (answer["entry"], answer["overshoot_events"]) == (entry, 0)
    return answer


def test_numpy(numpy_answers: Answers, entry: str) -> None:
    answer = _sound(numpy_answers, entry)
    assert answer["counts"]["passed"] > 30_000
    assert answer["blocks"]["paged"] > 10 * MILLION
    assert answer["evictions"] >= MILLION
    assert answer["faults"] >= MILLION


def test_pandas(pandas_answers: Answers, entry: str) -> None:
    answer = _sound(pandas_answers, entry)
    assert answer["counts"]["passed"] > 10_000
    assert answer["evictions"] >= MILLION
    assert answer["faults"] >= MILLION
