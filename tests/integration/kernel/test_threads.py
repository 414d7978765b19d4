# SPDX-License-Identifier: Apache-2.0
"""Every thread is covered, whoever made it and whatever it was doing, or paging is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest


def _play(run: Any, scene: str, entry: str, user: str) -> str:
    name = scene if "." in scene else f"threads.{scene}"
    ran = run("-m", "tests.integration.kernel.stage", name, entry, user)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("done\n")
    return str(ran.stdout)


@pytest.mark.parametrize(
    "scene",
    [
        "made_by_c_before_paging_began",
        "waiting_in_the_kernel_while_paging_begins",
        pytest.param("made_by_c_after_paging_began", marks=pytest.mark.long),
        pytest.param("blocks_all_signals_after_paging_began", marks=pytest.mark.long),
        pytest.param("many_come_and_go", marks=pytest.mark.long),
    ],
)
def test_every_thread_is_covered(run: Any, entry: str, scene: str) -> None:
    _play(run, scene, entry, "root")


@pytest.mark.long  # the guard gives each thread two seconds
@pytest.mark.parametrize(
    "scene", ["watchdog_of_faulthandler_before_paging_begins", "blocks_all_signals_before_paging_begins"]
)
@pytest.mark.parametrize("entry", ["signal"], indirect=True)
def test_a_thread_that_cannot_be_covered_is_refused_by_name(run: Any, entry: str, scene: str) -> None:
    assert "not refused" not in _play(run, scene, entry, "root")


@pytest.mark.long
@pytest.mark.parametrize("entry", ["thread"], indirect=True)
@pytest.mark.parametrize("user", ["root", "nobody"], indirect=True)
def test_where_the_kernel_serves_faults_no_thread_need_be_covered(run: Any, entry: str, user: str) -> None:
    told = _play(run, "blocks_all_signals_before_paging_begins", entry, user)
    assert ("not refused" in told) == (user == "root")


@pytest.mark.root
@pytest.mark.usefixtures("need_root")
@pytest.mark.long
@pytest.mark.parametrize(
    "scene",
    [
        "made_by_c_after_paging_began",
        "made_by_c_before_paging_began",
        "waiting_in_the_kernel_while_paging_begins",
        "blocks_all_signals_after_paging_began",
    ],
)
def test_threads_of_a_plain_user(run: Any, entry: str, scene: str) -> None:
    _play(run, scene, entry, "nobody")


@pytest.mark.root
@pytest.mark.usefixtures("need_root")
@pytest.mark.parametrize(
    "scene", ["many_while_threads_page", pytest.param("from_many_threads", marks=pytest.mark.long)]
)
def test_children_that_borrow_memory_find_it_and_leave_nothing_held(run: Any, entry: str, scene: str) -> None:
    _play(run, f"spawn.{scene}", entry, "nobody")


@pytest.mark.long
@pytest.mark.parametrize("scene", ["many_while_threads_page", "from_many_threads"])
def test_children_that_borrow_memory_of_a_privileged_process(run: Any, entry: str, scene: str) -> None:
    _play(run, f"spawn.{scene}", entry, "root")
