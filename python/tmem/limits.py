# SPDX-License-Identifier: Apache-2.0
"""How much memory this process may use: the machine's, or less where a cgroup says so.

Owns: the reading of cgroup v1 and v2 limits and of /proc/meminfo. Called by memory, doctor, demo. Calls mounts.
Every path is below `root`, so that a test gives a tree of its own. No state: limits change while a process runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tmem.mounts import Mount, mounts

__all__ = ["Allowance", "allowance", "machine_memory"]

_V2_FILES = ("memory.max", "memory.high")
_V1_FILES = ("memory.limit_in_bytes",)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be used, in bytes, and who says so: `the machine` or the cgroup file with the lowest limit."""

    count: int
    source: str


def allowance(root: Path = Path("/")) -> Allowance:
    """Return the lowest of the machine's memory and the limits of this process's cgroup and those above it."""
    best = Allowance(machine_memory(root), "the machine")
    for path in _limit_files(root):
        limit = _number(path)
        if limit is not None and limit < best.count:
            best = Allowance(limit, f"the cgroup ({path})")
    return best


def machine_memory(root: Path = Path("/")) -> int:
    """Return MemTotal in bytes."""
    for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    message = "/proc/meminfo has no MemTotal line: is /proc mounted?"
    raise OSError(message)


def _limit_files(root: Path) -> list[Path]:
    """Return the files that may hold a limit, from this process's cgroup up to the mount's root."""
    table = mounts(root)
    found: list[Path] = []
    for controllers, group in _memberships(root):
        if "memory" in controllers:
            mount = next((m for m in table if m.kind == "cgroup" and "memory" in m.options), None)
            found += _walk(root, mount, group, _V1_FILES)
        elif not controllers:
            mount = next((m for m in table if m.kind == "cgroup2"), None)
            found += _walk(root, mount, group, _V2_FILES)
    return found


def _memberships(root: Path) -> list[tuple[list[str], str]]:
    """Return (controllers, path) for each hierarchy; version 2 has no controllers here."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    fields = [line.split(":", 2) for line in lines]
    return [(field[1].split(",") if field[1] else [], field[2]) for field in fields if len(field) == 3]  # noqa: PLR2004


def _walk(root: Path, mount: Mount | None, group: str, names: tuple[str, ...]) -> list[Path]:
    """Return the limit files of `group` and its parents, below where the hierarchy is mounted.

    In a container the mount often shows only a part of the hierarchy while the path is the host's: the part that the
    mount hides is dropped, and a path that is not below it at all leaves the mount's own directory.
    """
    if mount is None:
        return []
    top = root / mount.point.lstrip("/")
    path = PurePosixPath(os.path.normpath(group))
    relative = path.relative_to(mount.root) if path.is_relative_to(mount.root) else PurePosixPath()
    levels = [relative, *relative.parents]
    return [top / level / name for level in levels if ".." not in level.parts for name in names]


def _number(path: Path) -> int | None:
    """Return the limit in `path`; None for `max`, for what is not there and for what is not a number."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None
