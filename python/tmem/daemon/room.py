# SPDX-License-Identifier: Apache-2.0
"""What the machine and the daemon's own cgroup really have left, whatever the capacity says.

Owns: the reading of /proc/meminfo and of the cgroup's counters. Called by flow. Calls limits.
Law: the host says no before the kernel has to kill somebody. Memory that does not fit is not refused by the kernel when
it is allocated: the OOM killer is called, and in a cgroup it finds nobody but the daemon.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tmem.limits import allowance, machine_memory

__all__ = ["Room"]

_LEAST: Final = 32 << 20
_MOST: Final = 256 << 20
_PART: Final = 64  # of the whole, what is left alone
_GROUP: Final = "the cgroup ("
_USAGE: Final = {"memory.max": "memory.current", "memory.high": "memory.current"}
_USAGE_V1: Final = "memory.usage_in_bytes"
_CACHE: Final = {"inactive_file", "active_file", "total_inactive_file", "total_active_file"}


class Room:
    """The memory that is left, read when it has to be. Paths are below `root`, for tests."""

    def __init__(self, root: str = "/") -> None:
        self._root = Path(root)
        allowed = allowance(root)
        self._limit = allowed.count
        self._group: Path | None = None
        if allowed.source.startswith(_GROUP):
            file = Path(allowed.source.removeprefix(_GROUP).removesuffix(")"))
            self._group = file.parent
            self._usage = file.with_name(_USAGE.get(file.name, _USAGE_V1))
        self._margin = min(_MOST, max(_LEAST, min(allowed.count, machine_memory(root)) // _PART))
        self._left = 0

    def take(self, size: int) -> bool:
        """Return whether there is memory for an extent of `size` bytes, and count it."""
        if self._left < size:
            self.look()
        if self._left < size:
            return False
        self._left -= size
        return True

    def look(self) -> int:
        """Read how many bytes may be taken; kept until they are."""
        left = self._available()
        if self._group is not None:
            left = min(left, self._limit - self._used())
        self._left = max(0, left - self._margin)
        return self._left

    def _available(self) -> int:
        with (self._root / "proc/meminfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return machine_memory(self._root)

    def _used(self) -> int:
        """Return what the cgroup cannot let go of: all but the files it has read."""
        try:
            used = int(self._usage.read_text(encoding="utf-8"))
            lines = self._usage.with_name("memory.stat").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return 0  # not ours to read: the capacity alone holds
        stat = {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if name in _CACHE}
        files = [stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file")]
        return max(0, used - sum(files))
