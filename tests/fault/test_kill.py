# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of paging: no file, no process and no disk space stays behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

PAGING = """
memory = tmem.Memory("16M", swap=directory, faults=entry)
array = memory.empty(4 << 20, "i8")
array[:] = noise(1, array.size)
if forked:
    os.fork()
say(pid=os.getpid(), swap_used=memory.stats().swap_used)
while True:
    array[::512] += 1
"""


def _is_running(pid: int) -> bool:
    """Whether a process that is no child of ours still runs; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


@pytest.mark.parametrize("forked", [False, pytest.param(True, marks=pytest.mark.long)])
def test_kill_in_the_middle_of_paging_leaves_nothing(start: Any, entry: str, tmp_path: Path, *, forked: bool) -> None:
    with start(f"forked = {forked}\n" + PAGING, entry) as process:
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline()) for _ in range(2 if forked else 1)]
        for one in told:
            assert one["swap_used"] > 0
            os.kill(one["pid"], signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
    orphans = [one["pid"] for one in told if one["pid"] != process.pid]
    while any(_is_running(pid) for pid in orphans):
        os.sched_yield()
