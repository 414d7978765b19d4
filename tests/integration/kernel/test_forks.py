# SPDX-License-Identifier: Apache-2.0
"""Law 15: a child sees the arrays as they were, or stops with a named report. The scenes are in `scenes_fork.py`."""

from __future__ import annotations

from typing import Any

import pytest

FATAL = "tmem: fatal: this process was made by a raw clone or _Fork"


def _play(run: Any, scene: str, entry: str, user: str = "root") -> str:
    ran = run("-m", "tests.integration.kernel.stage", f"fork.{scene}", entry, user)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
    return str(ran.stderr)


@pytest.mark.parametrize(
    "scene",
    [
        "child_stays_while_the_parent_pages",
        "other_programs",
        pytest.param("untouched_behind_the_c_library", marks=pytest.mark.long),
        pytest.param("grandchildren", marks=pytest.mark.long),
        pytest.param("fork_before_paging_begins", marks=pytest.mark.long),
        pytest.param("pools_of_processes", marks=pytest.mark.long),
        pytest.param("fork_while_threads_page", marks=pytest.mark.long),
        pytest.param("processes_that_answer_through_queues", marks=pytest.mark.long),
        pytest.param("child_ends_without_cleaning_up", marks=pytest.mark.long),
    ],
)
def test_every_kind_of_child_and_its_parent_find_their_values(run: Any, entry: str, scene: str) -> None:
    assert _play(run, scene, entry) == ""


@pytest.mark.parametrize(
    "scene",
    ["touched_behind_the_c_library", pytest.param("touched_after_the_other_fork", marks=pytest.mark.long)],
)
def test_a_child_without_the_arrays_stops_with_a_named_report(run: Any, entry: str, scene: str) -> None:
    assert _play(run, scene, entry).count(FATAL) == 1


@pytest.mark.root
@pytest.mark.usefixtures("need_root")
@pytest.mark.long
@pytest.mark.parametrize(
    "scene", ["child_stays_while_the_parent_pages", "other_programs", "untouched_behind_the_c_library"]
)
def test_children_of_a_plain_user(run: Any, entry: str, scene: str) -> None:
    assert _play(run, scene, entry, "nobody") == ""
