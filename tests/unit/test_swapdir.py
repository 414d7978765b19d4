# SPDX-License-Identifier: Apache-2.0
"""Where the swap device goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tmem import swapdir
from tmem.errors import SizeError, SwapError
from tmem.kinds import Swap
from tmem.mounts import Mount, mount_of
from tmem.swapdir import plan_swap, refusal_of

RAM = 64 << 20
DISK = Mount("/", "/", "ext4", frozenset({"rw"}))


def _in_ram(path: Path) -> list[Mount]:
    return [DISK, Mount("/", str(path), "tmpfs", frozenset({"rw"}))]


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(swapdir, "mounts", lambda: [DISK])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("none", [None, "none"])
def test_plan_swap_of_none_has_no_device(none: str | None) -> None:
    plan = plan_swap(none, RAM)
    assert (plan.directory, plan.count, plan.warning) == (None, 0, "")


def test_plan_swap_auto_takes_tmpdir_and_caps_it(on_disk: Path) -> None:
    plan = plan_swap("auto", RAM)
    assert plan.directory == str(on_disk)
    free = os.statvfs(on_disk)
    assert plan.count <= min(16 * RAM, free.f_bavail * free.f_frsize // 2 + (64 << 20))
    assert not plan.warning


def test_plan_swap_auto_passes_over_directories_in_ram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    disk = tmp_path_factory.mktemp("disk")
    monkeypatch.setattr(swapdir, "mounts", lambda: _in_ram(tmp_path))
    monkeypatch.setattr(swapdir, "candidates", lambda: [str(tmp_path), str(tmp_path / "missing"), str(disk)])
    assert plan_swap("auto", RAM).directory == str(disk)
    monkeypatch.setattr(swapdir, "candidates", lambda: [str(tmp_path)])
    assert plan_swap("auto", RAM).directory is None
    with pytest.raises(SwapError, match="name one"):
        plan_swap("1M", RAM)


def test_plan_swap_of_a_named_directory_in_ram_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swapdir, "mounts", lambda: _in_ram(tmp_path))
    plan = plan_swap((tmp_path, "2M"), RAM)
    assert plan.directory == str(tmp_path)
    assert plan.count == 2 << 20
    assert "tmpfs" in plan.warning


@pytest.mark.parametrize("swap", ["20M", 20 << 20])
def test_plan_swap_of_a_size_finds_its_directory(on_disk: Path, swap: str | int) -> None:
    plan = plan_swap(swap, RAM)
    assert (plan.directory, plan.count, plan.warning) == (str(on_disk), 20 << 20, "")


def test_plan_swap_of_a_path_finds_its_size(on_disk: Path) -> None:
    assert plan_swap(on_disk, RAM).count <= 16 * RAM
    assert plan_swap(str(on_disk), RAM).directory == str(on_disk)


@pytest.mark.parametrize("bad", ["atuo", "-1G", "0", 0, -1, "2 gb", "", ("/tmp", "0"), ("/tmp", "1G", 3)])
def test_plan_swap_of_a_misspelt_size_says_so(bad: Swap) -> None:
    with pytest.raises(SizeError, match="swap"):
        plan_swap(bad, RAM)


def test_plan_swap_of_a_missing_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(SwapError, match="does not exist; name a writable directory"):
        plan_swap(tmp_path / "missing", RAM)
    (tmp_path / "file").touch()
    with pytest.raises(SwapError, match="not a directory"):
        plan_swap(tmp_path / "file", RAM)


def test_plan_swap_of_more_than_is_free_says_what_is(on_disk: Path) -> None:
    with pytest.raises(SwapError, match="are free: ask for less"):
        plan_swap((on_disk, "900T"), RAM)


def test_plan_swap_of_a_directory_without_permission_says_so(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SwapError, match="may not write"):
        plan_swap(on_disk, RAM)
    assert refusal_of(on_disk, [DISK])


def test_mount_of_takes_the_deepest_and_the_last() -> None:
    table = [DISK, Mount("/", "/tmp", "ext4", frozenset()), Mount("/", "/tmp", "tmpfs", frozenset())]
    assert mount_of("/tmp/x", table) == table[2]
    assert mount_of("/tmpx", table) == DISK
    assert mount_of("/x", []) is None
