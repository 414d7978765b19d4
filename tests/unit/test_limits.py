# SPDX-License-Identifier: Apache-2.0
"""What may be used, read from trees that look like machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmem.limits import allowance, machine_memory

GIB = 1 << 30
V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 30 0:29 {root} /sys/fs/cgroup/memory rw,nosuid shared:5 - cgroup cgroup rw,memory\n"
OTHER = "25 1 259:1 / / rw,relatime - ext4 /dev/root rw\nnot a mount line\n"


class Tree:
    """A machine with 8 GiB."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n")
        self.write("proc/self/mountinfo", OTHER)
        self.write("proc/self/cgroup", "")

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def v2(self, group: str, *, root: str = "/") -> None:
        self.write("proc/self/mountinfo", OTHER + V2.format(root=root))
        self.write("proc/self/cgroup", f"0::{group}\n")

    def v1(self, group: str, *, root: str = "/") -> None:
        self.write("proc/self/mountinfo", OTHER + V1.format(root=root))
        self.write("proc/self/cgroup", f"9:name=systemd:/\n4:cpu,memory:{group}\n0::/\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_allowance_without_cgroup_is_the_machine(tree: Tree) -> None:
    assert machine_memory(tree.root) == 8 * GIB
    assert allowance(tree.root).count == 8 * GIB
    assert allowance(tree.root).source == "the machine"


def test_allowance_of_v2_reads_memory_max(tree: Tree) -> None:
    tree.v2("/user/job")
    tree.write("sys/fs/cgroup/user/job/memory.max", f"{2 * GIB}\n")
    found = allowance(tree.root)
    assert found.count == 2 * GIB
    assert "memory.max" in found.source


def test_allowance_of_v2_takes_the_lowest_above(tree: Tree) -> None:
    tree.v2("/user/job")
    tree.write("sys/fs/cgroup/user/job/memory.max", "max\n")
    tree.write("sys/fs/cgroup/user/memory.max", f"{3 * GIB}\n")
    tree.write("sys/fs/cgroup/user/memory.high", f"{GIB}\n")
    assert allowance(tree.root).count == GIB


def test_allowance_of_v2_above_the_machine_is_the_machine(tree: Tree) -> None:
    tree.v2("/job")
    tree.write("sys/fs/cgroup/job/memory.max", f"{64 * GIB}\n")
    assert allowance(tree.root).count == 8 * GIB


def test_allowance_of_v2_in_a_namespace_reads_the_root(tree: Tree) -> None:
    tree.v2("/")
    tree.write("sys/fs/cgroup/memory.max", f"{GIB}\n")
    assert allowance(tree.root).count == GIB


def test_allowance_of_v1_reads_the_limit(tree: Tree) -> None:
    tree.v1("/docker/abc")
    tree.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", f"{GIB}\n")
    assert allowance(tree.root).count == GIB


def test_allowance_of_v1_without_limit_is_the_machine(tree: Tree) -> None:
    tree.v1("/docker/abc")
    tree.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n")
    assert allowance(tree.root).count == 8 * GIB


@pytest.mark.parametrize("root", ["/docker/abc", "/somewhere/else"])
def test_allowance_of_v1_in_a_container_drops_the_hosts_part(tree: Tree, root: str) -> None:
    tree.v1("/docker/abc", root=root)
    tree.write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{GIB}\n")
    assert allowance(tree.root).count == GIB


def test_allowance_ignores_paths_that_climb_out(tree: Tree) -> None:
    tree.v2("/../../etc")
    tree.write("sys/fs/cgroup/memory.max", f"{GIB}\n")
    assert allowance(tree.root).count <= 8 * GIB


@pytest.mark.parametrize("text", ["", "lots", "-1", "\xff"])
def test_allowance_ignores_limits_that_are_no_number(tree: Tree, text: str) -> None:
    tree.v2("/job")
    (tree.root / "sys/fs/cgroup/job").mkdir(parents=True)
    (tree.root / "sys/fs/cgroup/job/memory.max").write_bytes(text.encode("latin-1"))
    assert allowance(tree.root).count == 8 * GIB


def test_allowance_of_this_machine_is_positive() -> None:
    assert 0 < allowance().count <= machine_memory()
