# SPDX-License-Identifier: Apache-2.0
"""The host says no before the machine, or its cgroup, is out of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host.daemonthread import ThreadDaemon
from tmem.daemon.room import Room

MIB = 1 << 20


def machine(root: Path, available: int, *, cgroup: str = "", **files: str) -> Room:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {4 << 20} kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text("0::/host\n" if cgroup == "2" else "4:memory:/host\n" if cgroup else "")
    kind = "cgroup2 cgroup2 rw" if cgroup == "2" else "cgroup cgroup rw,memory"
    (root / "proc/self/mountinfo").write_text(f"1 0 0:1 / /cg rw - {kind}\n")
    for name, text in files.items():
        path = root / "cg/host" / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Room(str(root))


def test_the_machine_keeps_a_rest(tmp_path: Path) -> None:
    room = machine(tmp_path, 100 * MIB)
    assert room.look() == 36 * MIB  # all but a 64th of 4 GiB
    assert [room.take(16 * MIB) for _ in range(3)] == [True, True, True]  # read again: nothing was really taken
    machine(tmp_path, 65 * MIB)
    assert [room.take(16 * MIB), room.take(16 * MIB)] == [True, False]


@pytest.mark.parametrize(
    ("version", "limit", "usage", "prefix"),
    [("2", "memory__max", "memory__current", ""), ("1", "memory__limit_in_bytes", "memory__usage_in_bytes", "total_")],
)
def test_the_cgroup_counts_without_what_files_it_has_read(
    tmp_path: Path, version: str, limit: str, usage: str, prefix: str
) -> None:
    stat = f"anon 5\n{prefix}inactive_file {20 * MIB}\n{prefix}active_file {10 * MIB}\n"
    files = {limit: f"{512 * MIB}\n", usage: f"{442 * MIB}\n", "memory__stat": stat}
    assert machine(tmp_path, 1024 * MIB, cgroup=version, **files).look() == (512 - 442 + 30 - 32) * MIB
    (tmp_path / "cg/host" / usage.replace("__", ".")).unlink()
    assert machine(tmp_path, 1024 * MIB, cgroup=version, **{limit: f"{512 * MIB}\n"}).look() == 480 * MIB


def test_what_the_machine_has_not_is_refused(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as guest:
        (tmp_path / "machine").mkdir()
        daemon.call(lambda: setattr(daemon.host, "left", machine(tmp_path / "machine", 67 * MIB)))
        assert guest.lease(1) == 1
        machine(tmp_path / "machine", 10 * MIB)
        daemon.call(daemon.host.left.look)
        assert (guest.lease(1), guest.refused) == (0, "host-full")
        assert daemon.ask("list")["host"]["counters"]["no_memory"] == 1
