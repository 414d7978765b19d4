# SPDX-License-Identifier: Apache-2.0
"""Extents: the memory itself, as the kernel has it.

Owns: the making, sealing, checking and ending of memfds. Called by flow and pools. Calls the kernel. An extent is
leased once: it is made for one guest, and when that guest's lease ends it is emptied, for good, whoever still has a
descriptor.
Law: never sealed against shrinking, which is how it is taken back; always against growth, so that what was taken back
stays so.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import stat
from contextlib import suppress
from typing import Final

__all__ = [
    "EPHEMERAL",
    "MEBIBYTE",
    "PERSISTENT",
    "SHARED_DATA",
    "SHARED_INDEX",
    "Extent",
    "ExtentError",
    "NoRoomError",
    "board",
    "inspect",
    "make",
    "reopen_read_only",
    "taken_bytes",
]

PERSISTENT: Final = 0
EPHEMERAL: Final = 1
SHARED_DATA: Final = 2
SHARED_INDEX: Final = 3

MEBIBYTE: Final = 1 << 20
_NAME: Final = "tmem-extent"
_NOEXEC_SEAL: Final = 0x8  # MFD_NOEXEC_SEAL, from Linux 6.3 on
_FUTURE_WRITE: Final = 0x10  # F_SEAL_FUTURE_WRITE: this process's mapping stays writable, no other can be made
_SEALED: Final = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NO_ROOM: Final = {errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_BLOCK: Final = 512  # the unit of st_blocks, whatever the file system

_flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _NOEXEC_SEAL


class NoRoomError(Exception):
    """The machine, or this process's cgroup, has no memory or no descriptor for another extent."""


class ExtentError(Exception):
    """A descriptor that is no extent a host made."""


class Extent:
    """A memfd that is leased. `guest` holds it; `pool` is the shared pool it is for, 0 for none."""

    __slots__ = ("bytes", "fd", "guest", "id", "inode", "kind", "pool")

    def __init__(self, fd: int, inode: int, size: int, kind: int) -> None:
        self.fd = fd
        self.inode = inode
        self.bytes = size
        self.kind = kind
        self.id = 0
        self.guest = 0
        self.pool = 0

    def end(self) -> None:
        """Empty it and close it: whoever else has it reads nothing from here on."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        with suppress(OSError):  # nothing can make it fail; if something does, the close still counts
            os.ftruncate(fd, 0)
        os.close(fd)

    def let_go(self) -> None:
        """Close it and leave its memory to whoever maps it: a daemon that ends takes nothing along."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def make(size: int, kind: int) -> Extent:
    """Make an extent whose memory is all there. NoRoomError where it is not to be had."""
    try:
        fd = _memfd(_NAME)
    except OSError as error:
        raise _no_room(error) from error
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, size)
        os.fchmod(fd, 0o600)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALED)
        return Extent(fd, os.fstat(fd).st_ino, size, kind)
    except OSError as error:
        os.close(fd)
        raise _no_room(error) from error


def inspect(fd: int, most: int) -> tuple[int, int]:
    """Return (inode, bytes) of a descriptor that a guest says is an extent. ExtentError where it is none.

    Everything that this host relies on is looked at: it can be taken back, it cannot grow, it is what it is for good.
    The seals come first: only memory has them, and of other files every question may have to wait for somebody.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        about = os.fstat(fd)
        name = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - no file, though it has a name
        if not stat.S_ISREG(about.st_mode) or not name.startswith(f"/memfd:{_NAME}"):
            raise ExtentError("not a memfd of a host")
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError as error:
        raise ExtentError(f"not a memfd: {error.strerror}") from None
    if about.st_dev != _device():
        raise ExtentError("it lies elsewhere, in huge pages perhaps")
    if seals & _SEALED != _SEALED or seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE | _FUTURE_WRITE):
        raise ExtentError("its seals are not those of an extent")
    if flags & os.O_ACCMODE != os.O_RDWR:
        raise ExtentError("it is not open for writing")
    if about.st_size % MEBIBYTE or not 0 < about.st_size <= most:
        raise ExtentError(f"its size is {about.st_size}")
    return about.st_ino, about.st_size


@functools.cache
def _device() -> int:
    """Return where this kernel keeps memfds, the number that goes with their inodes."""
    fd = _memfd(_NAME)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def reopen_read_only(fd: int) -> int:
    """Return a descriptor of the same memory that cannot be written to."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def board(size: int) -> int:
    """Return a memfd for what this host writes and guests read. To be mapped before `seal_board`."""
    fd = _memfd("tmem-board")
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, size)
        os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        raise
    return fd


def seal_board(fd: int) -> None:
    """Let nobody but the mapping that there is write to a board, and nobody resize it."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | _FUTURE_WRITE | fcntl.F_SEAL_SEAL)


def taken_bytes(fd: int) -> int:
    """Return what a descriptor's memory takes, as the kernel counts it."""
    return os.fstat(fd).st_blocks * _BLOCK


def _memfd(name: str) -> int:
    global _flags  # noqa: PLW0603 - what the kernel knows is found out once
    try:
        return os.memfd_create(name, _flags)
    except OSError as error:
        if error.errno != errno.EINVAL or not _flags & _NOEXEC_SEAL:
            raise
    _flags &= ~_NOEXEC_SEAL
    return os.memfd_create(name, _flags)


def _no_room(error: OSError) -> Exception:
    return NoRoomError(str(error)) if error.errno in _NO_ROOM else error
