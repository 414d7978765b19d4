# SPDX-License-Identifier: Apache-2.0
"""The kernel's own swap for one process: a memory cgroup, and zram, zswap or a swap file behind it.

Owns: which settings a peer needs, and what is read back: the pool's peak and the group's. Called by peers, measure,
footprint and zramstore. Calls undo, which knows how to change everything back. Nothing but the worker is put under the
limit, and what it has touched before stays outside: only what it makes from then on is counted and swapped.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tmem.bench.undo import ZRAM_CONTROL, Changes, uninterrupted
from tmem.mounts import mount_of, mounts

__all__ = [
    "Need",
    "Room",
    "algorithm",
    "bare_zram",
    "cgroup_missing",
    "disk_missing",
    "huge_missing",
    "room",
    "zram_missing",
    "zswap_missing",
]

_ZSWAP = Path("/sys/module/zswap/parameters")
THP = Path("/sys/kernel/mm/transparent_hugepage")
_CLUSTER = Path("/proc/sys/vm/page-cluster")
_TMP = Path("/var/tmp")  # noqa: S108 - a disk, other than /tmp often is; the file's name is ours alone
_FIRST = 32767
_SAMPLE = 0.02


@dataclass(frozen=True, slots=True)
class Need:
    """What a kernel peer needs: `swap` is `zram`, `zswap`, `file` or nothing; `algorithm` is zram's, or the default.

    `cluster` is vm.page-cluster, `huge` a directory below transparent_hugepage (`.` for the whole of it) that must heed
    madvise.
    """

    swap: str
    algorithm: str = ""
    cluster: int | None = None
    huge: str = ""


class Room:
    """A limit that is in force, and the swap behind it."""

    def __init__(self, group: Path, directory: Path, zram: Path | None, *, zswap: bool) -> None:
        self.directory = directory
        self._group, self._zram = group, zram
        self._v1 = (group / "memory.limit_in_bytes").exists()
        self._sampler = _ZswapPeak() if zswap and self._v1 else None

    def admit(self, pid: int) -> None:
        """Put a process under the limit; what it has touched already stays outside."""
        self.entrance.write_text(str(pid), encoding="ascii")

    @property
    def entrance(self) -> Path:
        """The file by which a process puts itself under the limit: it writes its number there."""
        return self._group / "cgroup.procs"

    def peak(self) -> int:
        """Return the most that the process had in RAM under the limit, in bytes; 0 where the kernel does not tell."""
        path = self._group / ("memory.max_usage_in_bytes" if self._v1 else "memory.peak")
        return int(path.read_text(encoding="ascii")) if path.exists() else 0

    def pool_peak(self) -> int:
        """Return the most RAM that the swapped pages took beside the limit, in bytes.

        zram's is the kernel's own count of its peak. zswap's is inside the limit with cgroups of version 2; with
        version 1 it is looked at every 20 ms.
        """
        if self._zram:
            return int((self._zram / "mm_stat").read_text(encoding="ascii").split()[4])
        return self._sampler.peak if self._sampler else 0

    def close(self) -> None:
        """Stop looking."""
        if self._sampler:
            self._sampler.stop()


class _ZswapPeak:
    def __init__(self) -> None:
        self._before, self.peak, self._ended = _zswap_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(_SAMPLE):
            self.peak = max(self.peak, _zswap_bytes() - self._before)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


@contextlib.contextmanager
def room(changes: Changes, need: Need, limit: int, nbytes: int) -> Iterator[Room]:
    """Make the swap with room for `nbytes` and a group that is limited to `limit`; all is undone behind the block."""
    mark = changes.mark()
    made = None
    try:
        if need.cluster is not None:
            changes.set(_CLUSTER, str(need.cluster))
        if need.huge:
            changes.set(THP / need.huge / "enabled", "madvise")
        directory = _directory(changes)
        zram = None
        if need.swap == "zram":
            zram, device = _zram(changes, need.algorithm, 2 * nbytes)
            _swap_on(changes, device)
        if need.swap == "zswap":
            changes.set(_ZSWAP / "enabled", "Y")
        elif need.swap == "file":
            _without_zswap(changes)
        if need.swap in ("zswap", "file"):
            _swap_file(changes, directory / "swap", nbytes + nbytes // 4)
        made = Room(_group(changes, limit), directory, zram, zswap=need.swap == "zswap")
        yield made
    finally:
        if made is not None:
            made.close()
        changes.undo(mark)


@contextlib.contextmanager
def bare_zram(changes: Changes, wanted: str, nbytes: int) -> Iterator[tuple[Path, Path]]:
    """Make a zram device of that size without swap on it; yield its directory in /sys and its node. Undone behind."""
    mark = changes.mark()
    try:
        yield _zram(changes, wanted, nbytes)
    finally:
        changes.undo(mark)


def cgroup_missing() -> tuple[str, str]:
    """Return why no process can be limited here and what to do; two empty texts where it can."""
    if os.geteuid() != 0:
        return "a memory cgroup and swap need root", "run it as root: sudo tmem bench"
    if _hierarchy() is None:
        return "no memory cgroup", "enable it: echo +memory > /sys/fs/cgroup/cgroup.subtree_control"
    taken = [line.split()[0] for line in _swaps() if int(line.split()[4]) >= _FIRST]
    if taken:
        return f"swap on {taken[0]} has the highest priority", f"turn it off while this runs: swapoff {taken[0]}"
    return "", ""


def zram_missing(wanted: str) -> tuple[str, str]:
    """Return why there can be no zram with this algorithm (any, where it is empty), and what to do."""
    if not (ZRAM_CONTROL / "hot_add").exists():
        return "no zram in this kernel", "load it: modprobe zram"
    device = next(iter(sorted(Path("/sys/block").glob("zram*"))), None)
    if wanted and device and wanted not in algorithm(device, every=True).split():
        return f"this kernel's zram has no {wanted}", f"load it: modprobe {wanted}"
    return "", ""


def zswap_missing() -> tuple[str, str]:
    """Return why there can be no zswap, and what to do."""
    if not (_ZSWAP / "enabled").exists():
        return "no zswap in this kernel", "use a kernel with CONFIG_ZSWAP"
    return "", ""


def huge_missing(huge: str) -> tuple[str, str]:
    """Return why pages of this size cannot be had, and what to do."""
    if not (THP / huge / "enabled").exists():
        return f"this kernel has no transparent huge pages as in {THP / huge}", "use Linux 6.8 or newer"
    return "", ""


def disk_missing(nbytes: int) -> tuple[str, str]:
    """Return why there can be no swap file of that size, and what to do."""
    stat = os.statvfs(_TMP)
    if stat.f_bavail * stat.f_frsize < 2 * nbytes:
        return f"{_TMP} has too little room for a swap file", "make room, or choose a smaller --size"
    mount = mount_of(str(_TMP.resolve()), mounts())
    if mount and mount.kind in ("tmpfs", "overlay", "nfs", "nfs4"):
        return f"{_TMP} is on {mount.kind}, where no swap file can be", "mount a disk there"
    return "", ""


def algorithm(device: Path, *, every: bool = False) -> str:
    """Return the algorithm that a zram device uses, or all that it could use."""
    text = (device / "comp_algorithm").read_text(encoding="ascii")
    return text.replace("[", "").replace("]", "") if every else text[text.find("[") + 1 : text.find("]")]


def _zswap_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("Zswap:"):
            return int(line.split()[1]) << 10
    return 0


def _swaps() -> list[str]:
    return Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]


def _hierarchy() -> Path | None:
    """Return the directory in which a group with a memory limit can be made."""
    for mount in mounts():
        top = Path(mount.point)
        if mount.kind == "cgroup" and "memory" in mount.options:
            return top
        if mount.kind == "cgroup2":
            control = top / "cgroup.subtree_control"
            if control.exists() and "memory" in control.read_text(encoding="ascii").split():
                return top
    return None


def _group(changes: Changes, limit: int) -> Path:
    top = _hierarchy()
    if top is None:
        raise OSError("the memory cgroup has gone while this ran")
    group = top / f"tmem-bench-{os.getpid()}"
    changes.will("rmdir", str(group))
    group.mkdir()
    name = "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"
    (group / name).write_text(str(limit // 4096 * 4096), encoding="ascii")
    return group


def _zram(changes: Changes, wanted: str, nbytes: int) -> tuple[Path, Path]:
    """Make a zram device of our own: its directory in /sys, and its node."""
    with uninterrupted():
        number = (ZRAM_CONTROL / "hot_add").read_text(encoding="ascii").strip()
        changes.will("zram", number)
    block, device = Path(f"/sys/block/zram{number}"), Path(f"/dev/zram{number}")
    if wanted:
        (block / "comp_algorithm").write_text(wanted, encoding="ascii")
    (block / "disksize").write_text(str(nbytes), encoding="ascii")
    end = time.monotonic() + 5
    while not device.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return block, device


def _without_zswap(changes: Changes) -> None:
    """Turn zswap off: a bare swap file is one without a pool before it."""
    if (_ZSWAP / "enabled").exists():
        changes.set(_ZSWAP / "enabled", "N")


def _directory(changes: Changes) -> Path:
    """Make a directory on a disk, for files of this run."""
    path = _TMP / f"tmem-bench-{os.getpid()}"
    changes.will("rmtree", str(path))
    path.mkdir(mode=0o700)
    return path


def _swap_file(changes: Changes, path: Path, nbytes: int) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        os.posix_fallocate(file.fileno(), 0, nbytes)
    _swap_on(changes, path)


def _swap_on(changes: Changes, path: Path) -> None:
    subprocess.run(["mkswap", str(path)], check=True, capture_output=True)  # noqa: S603, S607 - our own path
    changes.will("swapoff", str(path))
    subprocess.run(["swapon", "-p", str(_FIRST), str(path)], check=True, capture_output=True)  # noqa: S603, S607
