# SPDX-License-Identifier: Apache-2.0
"""The kernel's own swap, for one process: zram and a swap file behind it, under a memory cgroup.

Owns everything it changes on the machine (zram0, a swap file, a cgroup) and undoes it on every way out. Only the
process that is put under the limit can be swapped: nothing else is in the cgroup.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

ZRAM = Path("/sys/block/zram0")
DEVICE = Path("/dev/zram0")
V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")


def missing() -> str:
    """Return what this machine lacks for a kernel peer; nothing when it has all."""
    if os.geteuid() != 0:
        return "kernel swap needs root"
    if not ZRAM.exists():
        return "no zram0 (modprobe zram)"
    if (ZRAM / "disksize").read_text().strip() != "0" or "zram0" in Path("/proc/swaps").read_text():
        return "zram0 is in use"
    if "lz4" not in (ZRAM / "comp_algorithm").read_text():
        return "this kernel's zram has no lz4"
    if not (V1 / "memory.limit_in_bytes").exists() and "memory" not in _controllers():
        return "no memory cgroup"
    return ""


def _controllers() -> str:
    path = V2 / "cgroup.subtree_control"
    return path.read_text() if path.exists() else ""


def packed_ratio(sample: bytes) -> float:
    """Return how many bytes of a sample zram keeps in one byte of RAM, by writing it there."""
    with _zram(len(sample)):
        with DEVICE.open("wb", buffering=0) as device:
            device.write(sample)
            os.fsync(device.fileno())
        original, _, used = (int(n) for n in (ZRAM / "mm_stat").read_text().split()[:3])
    return original / used


@contextlib.contextmanager
def _zram(disk_bytes: int) -> Iterator[None]:
    try:
        (ZRAM / "comp_algorithm").write_text("lz4")
        (ZRAM / "disksize").write_text(str(disk_bytes))
        yield
    finally:
        (ZRAM / "reset").write_text("1")


class Limited:
    """A context in which `admit(pid)` puts one process under `resident` bytes of RAM with zram swap behind it.

    The zram device holds `disk` bytes of pages; what does not fit there goes to a swap file of `file_bytes`.
    """

    def __init__(self, resident: int, disk: int, file_bytes: int) -> None:
        self._resident = resident
        self._disk = disk // 4096 * 4096
        self._file_bytes = file_bytes
        self._stack = contextlib.ExitStack()
        self._group = (V1 if (V1 / "memory.limit_in_bytes").exists() else V2) / f"tmem-bench-{os.getpid()}"
        self._v1 = self._group.parent == V1

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_zram(self._disk))
            stack.enter_context(_swap_on(DEVICE, priority=100))
            stack.enter_context(_swap_file(self._file_bytes))
            self._group.mkdir()
            stack.callback(self._group.rmdir)
            name = "memory.limit_in_bytes" if self._v1 else "memory.max"
            (self._group / name).write_text(str(self._resident))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def admit(self, pid: int) -> None:
        """Put a process under the limit; what it has touched already stays outside."""
        (self._group / "cgroup.procs").write_text(str(pid))

    def peaks(self) -> tuple[int, int]:
        """Return the most RAM the process had, and the most that zram had, in bytes."""
        name = "memory.max_usage_in_bytes" if self._v1 else "memory.peak"
        stat = (ZRAM / "mm_stat").read_text().split()
        return int((self._group / name).read_text()), int(stat[4])


@contextlib.contextmanager
def _swap_on(path: Path, priority: int) -> Iterator[None]:
    subprocess.run(["mkswap", str(path)], check=True, capture_output=True)
    subprocess.run(["swapon", "-p", str(priority), str(path)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", str(path)], check=True, capture_output=True)


@contextlib.contextmanager
def _swap_file(count: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="tmem-bench-", dir="/var/tmp") as directory:
        path = Path(directory) / "swap"
        with path.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.posix_fallocate(file.fileno(), 0, count)
        with _swap_on(path, priority=10):
            yield
