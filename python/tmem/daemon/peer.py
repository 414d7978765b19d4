# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end: what the kernel says of a connection, never what a message says (law 18).

Owns: the reading of credentials, the pidfd and the cgroup. Called by server and admin. Calls the kernel.
"""

from __future__ import annotations

import functools
import os
import pwd
import select
import socket
import struct
from pathlib import Path
from typing import Final

from tmem.ledger import start_time

__all__ = ["Peer", "PeerRefusedError", "credentials", "look"]

_PEERPIDFD: Final = 77  # SO_PEERPIDFD, from Linux 6.5 on
_CREDENTIALS: Final = struct.Struct("3i")
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")
_NOBODY: Final = 65534
_LONGEST_CGROUP: Final = 512


class PeerRefusedError(Exception):
    """A peer that cannot be told from others. The text is for it to read."""


class Peer:
    """The process that connected. `pidfd` is its own to close, -1 where its end shows only as the connection's."""

    __slots__ = ("cgroup", "gid", "pid", "pidfd", "started", "uid", "user")

    def __init__(self, pid: int, uid: int, gid: int, pidfd: int) -> None:
        self.pid, self.uid, self.gid, self.pidfd = pid, uid, gid, pidfd
        self.started = 0 if pid == 0 else (start_time(pid) or 0)
        self.cgroup = _cgroup(pid)
        self.user = _user(uid)

    @property
    def process(self) -> tuple[int, int]:
        """What tells this process from every other since the machine started."""
        return (self.pid, self.started)

    def close(self) -> None:
        """Let go of the pidfd."""
        fd, self.pidfd = self.pidfd, -1
        if fd >= 0:
            os.close(fd)


def credentials(link: socket.socket) -> tuple[int, int, int]:
    """Return (pid, uid, gid) of who connected."""
    pid, uid, gid = _CREDENTIALS.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF


def look(link: socket.socket, *, allow_overflow_uid: bool = False, allow_invisible_pid: bool = False) -> Peer:
    """Return who connected. PeerRefusedError where the kernel shows too little of it, or it has ended already."""
    pid, uid, gid = credentials(link)
    if uid == _overflow_uid() and not allow_overflow_uid:
        raise PeerRefusedError(
            f"user {uid} stands for every user that this host cannot see: map users, or set allow_overflow_uid"
        )
    if pid <= 0:
        if not allow_invisible_pid:
            raise PeerRefusedError(
                "this host cannot see your process: share its process namespace, or set allow_invisible_pid"
            )
        return Peer(0, uid, gid, -1)
    who = Peer(pid, uid, gid, _pidfd(link, pid, uid))
    if _has_ended(who.pidfd):  # what was read of its number may be another process's
        who.close()
        raise PeerRefusedError("the process that connected has ended")
    return who


def _pidfd(link: socket.socket, pid: int, uid: int) -> int:
    try:
        return link.getsockopt(socket.SOL_SOCKET, _PEERPIDFD)
    except ProcessLookupError:
        raise PeerRefusedError("the process that connected has ended") from None
    except OSError:
        pass  # an older kernel
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        raise PeerRefusedError("the process that connected has ended") from None
    if not _is_of(pid, uid):  # the number may have gone to another process since the connection was made
        os.close(fd)
        raise PeerRefusedError("the process that connected has ended")
    return fd


def _has_ended(pidfd: int) -> bool:
    found = select.poll()
    found.register(pidfd, select.POLLIN)
    return bool(found.poll(0))


def _is_of(pid: int, uid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid in {uid, 0}  # noqa: PTH116 - root has what is not dumpable
    except OSError:
        return False


def _overflow_uid() -> int:
    try:
        return int(_OVERFLOW.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _NOBODY


def _cgroup(pid: int) -> str:
    """Return the cgroup of a process, version 2 or the memory controller's; nothing where that cannot be seen."""
    if pid == 0:
        return ""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    fields = [line.split(":", 2) for line in lines]
    own = [field[2] for field in fields if len(field) == 3 and (not field[1] or "memory" in field[1].split(","))]  # noqa: PLR2004
    return own[-1][:_LONGEST_CGROUP] if own else ""


@functools.lru_cache(maxsize=1024)  # behind it may be a server that takes its time
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
