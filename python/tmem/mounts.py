# SPDX-License-Identifier: Apache-2.0
"""What is mounted where, as /proc/self/mountinfo tells it.

Owns: the reading of that one file. Called by limits and swapdir. Calls nothing. No state. Imports nothing: `tmem run`
begins with it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

__all__ = ["Mount", "mount_of", "mounts"]

_OCTAL = 3


class Mount:
    """One mount: `root` is the part of the file system that shows at `point`."""

    __slots__ = ("kind", "options", "point", "root")

    def __init__(self, root: str, point: str, kind: str, options: frozenset[str]) -> None:
        self.root = root
        self.point = point
        self.kind = kind
        self.options = options


def mounts(root: str | os.PathLike[str] = "/") -> list[Mount]:
    """Return every mount in the order of mounting; none where the file cannot be read."""
    try:
        with open(f"{root}/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return [mount for mount in map(_parse, lines) if mount is not None]


def mount_of(path: str, table: list[Mount]) -> Mount | None:
    """Return the mount that holds `path` (absolute, links resolved): the deepest, and of those the last."""
    best: Mount | None = None
    for mount in table:
        inside = mount.point in ("/", path) or path.startswith(mount.point + "/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _parse(line: str) -> Mount | None:
    """Parse `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/sda rw`; None where it is not one."""
    left, dash, right = line.partition(" - ")
    fields, kind = left.split(" "), right.split(" ")
    if not dash or len(fields) < 6 or len(kind) < 3:  # noqa: PLR2004 - the fields that proc(5) promises
        return None
    return Mount(
        root=_plain(fields[3]),
        point=_plain(fields[4]),
        kind=kind[0],
        options=frozenset(fields[5].split(",")) | frozenset(kind[2].split(",")),
    )


def _plain(text: str) -> str:
    r"""Undo the kernel's escapes of blanks, `\040` for one."""
    first, *others = text.split("\\")
    for part in others:
        digits = part[:_OCTAL]
        escaped = len(digits) == _OCTAL and all(digit in "01234567" for digit in digits)
        first += chr(int(digits, 8)) + part[_OCTAL:] if escaped else f"\\{part}"
    return first
