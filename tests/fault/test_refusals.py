# SPDX-License-Identifier: Apache-2.0
"""Stores and machines that say no: a backend that refuses every page, a cgroup below the budget, a read-only target."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tmem.mounts import mounts

REFUSE = """
core = _core.Memory(
    16 << 20, swap_dir=directory, swap_bytes=256 << 20, faults=entry, name="refused", backends=["refuse"]
)
region = core.allocate(20 << 20)
array = np.frombuffer(memoryview(region), dtype="i8")
array[:] = np.arange(array.size)  # which the page store would have packed
core.evict(region.address, region.nbytes)
out = core.stats()
same = bool((array == np.arange(array.size)).all())
array[::512] = -1
core.evict(region.address, region.nbytes)
same = same and bool((array[::512] == -1).all()) and bool((array[1::512] == np.arange(1, array.size, 512)).all())
end = core.stats()
say(out=out, end=end, same=same, broken=core.check())
"""
READ_ONLY = """
memory = tmem.Memory("16M", swap=directory, faults=entry)
array = memory.full(4 << 20, 3, "i8")
memory.evict(array)
view = array[: 1 << 16]
view.flags.writeable = False
refused = []
with open("/dev/zero", "rb", buffering=0) as zeros:
    for call in (
        lambda: zeros.readinto(view), lambda: os.preadv(zeros.fileno(), [view], 0),
        lambda: np.copyto(view, 0), lambda: np.add(view, 1, out=view),
    ):
        try:
            call()
        except (TypeError, ValueError, BufferError):
            refused.append(True)
for advice in ("sequential", "cold", "willneed", "normal"):
    memory.advise(view, advice)
say(refused=refused, same=bool((array == 3).all()), broken=memory.check())
"""
IN_CGROUP = """
sys.stdin.readline()
try:
    tmem.Memory("128M", swap=None, faults=entry)
    refusal = ""
except tmem.SizeError as error:
    refusal = str(error)
say(refusal=refusal, half=tmem.Memory("50%", swap=None, faults=entry).ram)
"""


def test_backend_that_refuses_all_sends_every_page_to_the_swap_device(child: Any, entry: str) -> None:
    ran = child(REFUSE, entry)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["same"], told["broken"]) == (True, [])
    pages = (20 << 20) // 4096
    out, end = told["out"], told["end"]
    assert out["swap_used"] == pages * 4096
    assert out["refused_unwilling"] == out["failed_stores"]
    for stats in (out, end):
        assert (stats["succ_stores"], stats["loads"], stats["store_pages"]) == (0, 0, 0)
        assert stats["failed_stores"] == stats["swap_stores"] >= pages
        assert stats["evictions"] == stats["swap_stores"] + stats["clean_evictions"]
    assert end["swap_loads"] >= pages


def test_read_only_target_is_refused_and_unchanged(child: Any, entry: str) -> None:
    ran = child(READ_ONLY, entry)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"refused": [True] * 4, "same": True, "broken": []}


@pytest.fixture
def small_cgroup(need_root: None) -> Iterator[Path]:  # noqa: ARG001
    """Yield a memory cgroup with a limit of 64 MiB."""
    table = mounts()
    first = next((m for m in table if m.kind == "cgroup" and "memory" in m.options), None)
    second = next((m for m in table if m.kind == "cgroup2"), None)
    mount = first or second
    if mount is None:
        pytest.skip("needs a memory cgroup")
    group = Path(mount.point) / f"tmem-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(64 << 20), encoding="ascii")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"needs root that may make memory cgroups: {error}")
    yield group
    group.rmdir()


@pytest.mark.root
def test_budget_above_the_cgroup_is_refused_at_construction(start: Any, entry: str, small_cgroup: Path) -> None:
    with start(IN_CGROUP, entry) as process:
        try:
            (small_cgroup / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
            out, err = process.communicate("go\n", timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, err
    told = json.loads(out)
    assert "64.0 MiB" in told["refusal"]
    assert small_cgroup.name in told["refusal"]
    assert "ask for less" in told["refusal"]
    assert told["half"] == 32 << 20
