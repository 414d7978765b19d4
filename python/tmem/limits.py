# SPDX-License-Identifier: Apache-2.0
"""How much memory this process may use: the machine's, or less where a cgroup says so.

Owns: the reading of cgroup v1 and v2 limits and of /proc/meminfo, and what a budget may be. Called by memory, launch,
doctor, demo. Calls mounts and units. Every path is below `root`, so that a test gives a tree of its own. No state:
limits change while a process runs. Imports little: `tmem run` begins with it.
"""

from __future__ import annotations

import os

from tmem.errors import SizeError
from tmem.mounts import Mount, mounts
from tmem.units import format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tmem.kinds import Size

__all__ = ["Allowance", "allowance", "budget_of", "machine_memory"]

_V2_FILES = ("memory.max", "memory.high")
_V1_FILES = ("memory.limit_in_bytes",)


class Allowance:
    """What may be used, in bytes, and who says so: `the machine` or the cgroup file with the lowest limit."""

    __slots__ = ("count", "source")

    def __init__(self, count: int, source: str) -> None:
        self.count = count
        self.source = source


def budget_of(ram: Size, minimum: int) -> int:
    """Return the budget that `ram` means, in bytes; shares and `auto` are of what may be used.

    Raises SizeError where it is below `minimum` bytes, above what may be used, or no size.
    """
    allowed = allowance()
    budget = parse_size(ram, whole=allowed.count, what="ram")
    if budget < minimum:
        raise SizeError(
            f"ram of {format_size(budget)} is below the minimum of {minimum >> 20} MiB: ask for that or more"
        )
    if budget > allowed.count:
        raise SizeError(
            f"ram of {format_size(budget)} is more than the {format_size(allowed.count)} that {allowed.source} has: "
            "ask for less, or for a share such as '50%'"
        )
    return budget


def allowance(root: str | os.PathLike[str] = "/") -> Allowance:
    """Return the lowest of the machine's memory and the limits of this process's cgroup and those above it."""
    best = Allowance(machine_memory(root), "the machine")
    for path in _limit_files(root):
        limit = _number(path)
        if limit is not None and limit < best.count:
            best = Allowance(limit, f"the cgroup ({path})")
    return best


def machine_memory(root: str | os.PathLike[str] = "/") -> int:
    """Return MemTotal in bytes."""
    with open(os.path.join(root, "proc/meminfo"), encoding="utf-8") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    message = "/proc/meminfo has no MemTotal line: is /proc mounted?"
    raise OSError(message)


def _limit_files(root: str | os.PathLike[str]) -> list[str]:
    """Return the files that may hold a limit, from this process's cgroup up to the mount's root."""
    table = mounts(root)
    found: list[str] = []
    for controllers, group in _memberships(root):
        if "memory" in controllers:
            mount = next((m for m in table if m.kind == "cgroup" and "memory" in m.options), None)
            found += _walk(root, mount, group, _V1_FILES)
        elif not controllers:
            mount = next((m for m in table if m.kind == "cgroup2"), None)
            found += _walk(root, mount, group, _V2_FILES)
    return found


def _memberships(root: str | os.PathLike[str]) -> list[tuple[list[str], str]]:
    """Return (controllers, path) for each hierarchy; version 2 has no controllers here."""
    try:
        with open(os.path.join(root, "proc/self/cgroup"), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    fields = [line.split(":", 2) for line in lines]
    return [(field[1].split(",") if field[1] else [], field[2]) for field in fields if len(field) == 3]  # noqa: PLR2004


def _walk(root: str | os.PathLike[str], mount: Mount | None, group: str, names: tuple[str, ...]) -> list[str]:
    """Return the limit files of `group` and its parents, below where the hierarchy is mounted.

    In a container the mount often shows only a part of the hierarchy while the path is the host's: the part that the
    mount hides is dropped, and a path that is not below it at all leaves the mount's own directory.
    """
    if mount is None:
        return []
    top = os.path.join(root, mount.point.lstrip("/"))
    path, hidden = os.path.normpath(group), mount.root.rstrip("/")
    below = path[len(hidden) :].strip("/") if f"{path}/".startswith(f"{hidden}/") else ""
    parts = below.split("/") if below else []
    levels = [parts[:length] for length in range(len(parts), -1, -1)]
    return [os.path.join(top, *level, name) for level in levels if ".." not in level for name in names]


def _number(path: str) -> int | None:
    """Return the limit in `path`; None for `max`, for what is not there and for what is not a number."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None
