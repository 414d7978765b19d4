# SPDX-License-Identifier: Apache-2.0
"""Where the swap device goes and how large it may grow.

Owns: the meaning of `swap=`. Called by memory, launch, doctor and demo. Calls mounts and units. Imports little: `tmem
run` begins with it.
Law: a directory that lives in RAM (tmpfs, ramfs) is never picked, only taken when it is named, and then warned about.
"""

from __future__ import annotations

import os

from tmem.errors import SizeError, SwapError
from tmem.mounts import Mount, mount_of, mounts
from tmem.units import format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tmem.kinds import Swap

__all__ = ["SwapPlan", "candidates", "plan_swap", "refusal_of"]

IN_RAM = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
RAM_MULTIPLE = 16
"""A swap device that nobody sized grows to at most this many times the budget."""
SMALLEST = 1 << 20


class SwapPlan:
    """The directory (None: no swap device), its cap in bytes, and what to warn of, if anything."""

    __slots__ = ("count", "directory", "warning")

    def __init__(self, directory: str | None, count: int, warning: str = "") -> None:
        self.directory = directory
        self.count = count
        self.warning = warning


def plan_swap(swap: Swap, ram: int) -> SwapPlan:
    """Return what `swap` means for a budget of `ram` bytes.

    Raises SwapError where the named directory cannot be used or has too little room, SizeError for a wrong size.
    """
    directory, size = _split(swap)
    if directory == "none":
        return SwapPlan(None, 0)
    table = mounts()
    if directory is not None:
        return _named(os.path.expanduser(directory), size, ram, table)
    found = next((path for path in candidates() if not refusal_of(path, table)), None)
    if found is not None:
        return _sized(found, size, ram, "")
    if size is None:
        return SwapPlan(None, 0)
    raise SwapError(
        f"no directory on a disk for the swap device among {', '.join(candidates())}: name one with the size"
    )


def candidates() -> list[str]:
    """Return the directories that `auto` looks at, best first."""
    named = os.environ.get("TMPDIR")
    return [*([named] if named else []), "/var/tmp", "/tmp", "."]  # noqa: S108


def refusal_of(path: str | os.PathLike[str], table: list[Mount]) -> str:
    """Return why `auto` does not take `path`; the empty text when it does."""
    place = os.fspath(path)
    if reason := _unusable(place):
        return reason
    mount = mount_of(os.path.realpath(place), table)
    if mount is not None and mount.kind in IN_RAM:
        return f"it is a {mount.kind}, which is RAM itself"
    return "" if _free(place) // 2 >= SMALLEST else "its file system is full"


def _split(swap: Swap) -> tuple[str | None, int | None]:
    """Return (directory, bytes); `none` as the directory for no swap device, None for what is left to `auto`."""
    if swap is None or swap == "none":
        return "none", None
    if swap == "auto":
        return None, None
    if isinstance(swap, tuple):
        if len(swap) != 2:  # noqa: PLR2004 - a pair
            raise SizeError(f"swap must be (directory, size), not {swap!r}")
        return os.fspath(swap[0]), parse_size(swap[1], what="swap")
    if isinstance(swap, os.PathLike):
        return os.fspath(swap), None
    if isinstance(swap, str) and (os.sep in swap or swap.startswith("~")):
        return swap, None
    try:
        return None, parse_size(swap, what="swap")
    except SizeError as error:
        raise SizeError(f"{error} (or 'auto', 'none', or a directory as a path such as './scratch')") from None


def _named(path: str, size: int | None, ram: int, table: list[Mount]) -> SwapPlan:
    if reason := _unusable(path):
        raise SwapError(f"swap directory {path}: {reason}; name a writable directory, or use none")
    mount = mount_of(os.path.realpath(path), table)
    warning = ""
    if mount is not None and mount.kind in IN_RAM:
        warning = f"swap directory {path} is a {mount.kind}: pages there stay in RAM, in the budget: no room is won"
    return _sized(path, size, ram, warning)


def _sized(path: str, size: int | None, ram: int, warning: str) -> SwapPlan:
    free = _free(path)
    if size is None:
        size = min(RAM_MULTIPLE * ram, free // 2)
        if size < SMALLEST:
            raise SwapError(f"swap directory {path} has {format_size(free)} free: make room, or use none")
    elif size > free:
        raise SwapError(
            f"swap of {format_size(size)} in {path}, where {format_size(free)} are free: "
            "ask for less, or name another directory with the size"
        )
    return SwapPlan(os.path.realpath(path), size, warning)


def _unusable(path: str) -> str:
    if not os.path.exists(path):
        return "it does not exist"
    if not os.path.isdir(path):
        return "it is not a directory"
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only"
    return "" if os.access(path, os.W_OK | os.X_OK) else "this user may not write there"


def _free(path: str) -> int:
    """Return the bytes that an ordinary user may still write below `path`."""
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize
