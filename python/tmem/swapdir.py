# SPDX-License-Identifier: Apache-2.0
"""Where the swap device goes and how large it may grow.

Owns: the meaning of `swap=`. Called by memory, doctor and demo. Calls mounts and units.
Law: a directory that lives in RAM (tmpfs, ramfs) is never picked, only taken when it is named, and then warned about.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tmem.errors import SizeError, SwapError
from tmem.mounts import Mount, mount_of, mounts
from tmem.units import Size, format_size, parse_size

__all__ = ["Swap", "SwapPlan", "candidates", "plan_swap", "refusal_of"]

Swap = str | os.PathLike[str] | int | tuple[str | os.PathLike[str], Size] | None
"""`auto`, `none` or None, a size (`20G`), a directory, or both as (directory, size)."""

IN_RAM = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
RAM_MULTIPLE = 16
"""A swap device that nobody sized grows to at most this many times the budget."""
SMALLEST = 1 << 20


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """The directory (None: no swap device), its cap in bytes, and what to warn of, if anything."""

    directory: str | None
    count: int
    warning: str = ""


def plan_swap(swap: Swap, ram: int) -> SwapPlan:
    """Return what `swap` means for a budget of `ram` bytes.

    Raises SwapError where the named directory cannot be used or has too little room, SizeError for a wrong size.
    """
    directory, size = _split(swap)
    if directory == "none":
        return SwapPlan(None, 0)
    table = mounts()
    if directory is not None:
        return _named(Path(directory), size, ram, table)
    found = next((path for path in candidates() if not refusal_of(path, table)), None)
    if found is not None:
        return _sized(found, size, ram, "")
    if size is None:
        return SwapPlan(None, 0)
    tried = ", ".join(str(path) for path in candidates())
    raise SwapError(f"no directory on a disk for the swap device among {tried}: name one, swap=('/dir', {size})")


def candidates() -> list[Path]:
    """Return the directories that `auto` looks at, best first."""
    named = os.environ.get("TMPDIR")
    return [Path(text) for text in ([named] if named else []) + ["/var/tmp", "/tmp", "."]]  # noqa: S108


def refusal_of(path: Path, table: list[Mount]) -> str:
    """Return why `auto` does not take `path`; the empty text when it does."""
    if reason := _unusable(path):
        return reason
    mount = mount_of(str(path.resolve()), table)
    if mount is not None and mount.kind in IN_RAM:
        return f"it is a {mount.kind}, which is RAM itself"
    return "" if _free(path) // 2 >= SMALLEST else "its file system is full"


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


def _named(path: Path, size: int | None, ram: int, table: list[Mount]) -> SwapPlan:
    path = path.expanduser()
    if reason := _unusable(path):
        raise SwapError(f"swap directory {path}: {reason}; name a writable directory, or swap='none'")
    mount = mount_of(str(path.resolve()), table)
    warning = ""
    if mount is not None and mount.kind in IN_RAM:
        warning = f"swap directory {path} is a {mount.kind}: pages there stay in RAM, in the budget: no room is won"
    return _sized(path, size, ram, warning)


def _sized(path: Path, size: int | None, ram: int, warning: str) -> SwapPlan:
    free = _free(path)
    if size is None:
        size = min(RAM_MULTIPLE * ram, free // 2)
        if size < SMALLEST:
            raise SwapError(f"swap directory {path} has {format_size(free)} free: make room, or swap='none'")
    elif size > free:
        raise SwapError(
            f"swap of {format_size(size)} in {path}, where {format_size(free)} are free: "
            "ask for less, or name another directory as swap=('/dir', size)"
        )
    return SwapPlan(str(path.absolute()), size, warning)


def _unusable(path: Path) -> str:
    if not path.exists():
        return "it does not exist"
    if not path.is_dir():
        return "it is not a directory"
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only"
    return "" if os.access(path, os.W_OK | os.X_OK) else "this user may not write there"


def _free(path: Path) -> int:
    """Return the bytes that an ordinary user may still write below `path`."""
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize
