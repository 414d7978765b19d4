# SPDX-License-Identifier: Apache-2.0
"""The demonstration's recipe and jobs, on a small table of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmem.demo import jobs
from tmem.demo.recipe import JITTER, copies_for, grow, read_table
from tmem.demo.run import run_demo
from tmem.errors import SizeError

ROWS = 1000


@pytest.fixture
def seed() -> dict[str, Any]:
    random = np.random.default_rng(1)
    columns: dict[str, Any] = {
        name: random.integers(1, 1400, ROWS).astype("f8")
        for name in ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
    }
    columns["arr_delay"][::7] = np.nan
    columns |= {name: random.integers(1, 2000, ROWS) for name in ("distance", "hour")}
    columns["month"] = random.integers(1, 13, ROWS)
    columns["carrier"] = random.integers(0, 16, ROWS)
    return columns


def _grown(seed: dict[str, Any], copies: int, directory: Path) -> jobs.Columns:
    directory.mkdir()
    assert list(grow(seed, copies, directory)) == list(range(copies))
    return jobs.load(read_table(directory), jobs.PlainRoom())


def test_grow_keeps_types_rows_and_missing_values(seed: dict[str, Any], tmp_path: Path) -> None:
    columns = _grown(seed, 3, tmp_path / "t")
    for name, values in columns.items():
        assert values.dtype == seed[name].dtype
        assert values.size == 3 * ROWS
        np.testing.assert_array_equal(values[:ROWS], seed[name])
        again = np.sort(values[ROWS : 2 * ROWS])
        if name in JITTER:
            assert np.count_nonzero(np.isnan(again)) == np.count_nonzero(np.isnan(seed[name]))
            np.testing.assert_allclose(again, np.sort(seed[name]), atol=JITTER[name])
        else:
            np.testing.assert_array_equal(again, np.sort(seed[name]))


def test_grow_twice_gives_the_same_bytes(seed: dict[str, Any], tmp_path: Path) -> None:
    first = _grown(seed, 3, tmp_path / "a")
    second = _grown(seed, 3, tmp_path / "b")
    assert jobs.digest(*first.values()) == jobs.digest(*second.values())


def test_copies_for_rounds_up(seed: dict[str, Any]) -> None:
    size = sum(values.nbytes for values in seed.values())
    assert [copies_for(seed, count) for count in (1, size, size + 1)] == [1, 1, 2]


def test_jobs_give_what_plain_numpy_gives(
    seed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CHUNK", 300)
    columns = _grown(seed, 2, tmp_path / "t")
    room = jobs.PlainRoom()
    late = (columns["dep_delay"] > 60) & (columns["distance"] > 1000)
    np.testing.assert_array_equal(jobs.select(columns, room), columns["arr_delay"][late])
    np.testing.assert_array_equal(jobs.sort(columns, room), np.sort(columns["arr_delay"]))
    counts, means = np.split(jobs.group(columns, room), 2)
    chosen = (columns["carrier"] == 3) & (columns["month"] == 5) & ~np.isnan(columns["arr_delay"])
    assert counts[3 * 13 + 5] == np.count_nonzero(chosen)
    assert means[3 * 13 + 5] == pytest.approx(columns["arr_delay"][chosen].mean())
    names = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "distance", "hour", "month")
    whole = np.stack([columns[name] for name in names])
    whole = whole[:, ~np.isnan(whole).any(axis=0)]
    np.testing.assert_allclose(jobs.correlate(columns, room), np.corrcoef(whole), atol=1e-9)


def test_run_demo_below_the_smallest_size_says_so() -> None:
    with pytest.raises(SizeError, match=r"64\.0 MiB"):
        run_demo(1 << 20, "auto", lambda _what, _done: None)
