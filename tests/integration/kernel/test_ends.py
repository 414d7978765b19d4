# SPDX-License-Identifier: Apache-2.0
"""An interpreter may end in any way while its threads are in the middle of faults: see `scenes_ends.py`."""

from __future__ import annotations

import signal
from typing import Any

import pytest

ENDS = {
    "arrays_used_at_exit": (19, "right\n", ""),
    "forked_child_ends_while_threads_page": (22, "", ""),
    "sys_exit": (17, "", ""),
    "end_of_the_script": (0, "done\n", ""),
    "os_exit": (18, "", ""),
    "exception": (1, "", "the last words\n"),
    "killed_by_a_signal": (-signal.SIGTERM, "", ""),
    "a_thread_exits_the_process": (20, "", ""),
}
DEFAULT = 1


@pytest.mark.parametrize(
    "scene",
    [pytest.param(scene, marks=[pytest.mark.long] if at >= DEFAULT else []) for at, scene in enumerate(ENDS)],
)
def test_the_end_is_the_programs_own(run: Any, entry: str, scene: str) -> None:
    ran = run("-m", "tests.integration.kernel.stage", f"ends.{scene}", entry, "root")
    assert (ran.returncode, ran.stdout, ran.stderr) == ENDS[scene]


@pytest.mark.root
@pytest.mark.usefixtures("need_root")
@pytest.mark.long
@pytest.mark.parametrize("scene", ENDS)
@pytest.mark.parametrize("turn", range(3))
def test_the_end_of_a_plain_user(run: Any, entry: str, scene: str, turn: int) -> None:
    ran = run("-m", "tests.integration.kernel.stage", f"ends.{scene}", entry, "nobody")
    assert (ran.returncode, ran.stdout, ran.stderr) == ENDS[scene], turn
