# SPDX-License-Identifier: Apache-2.0
"""A file that takes the place of another whole, or not at all, whatever ends the program in between.

Owns: the way to the disk: an unnamed file, both syncs, the name last. Called by saving.
Law: until `publish` the old file is untouched, and afterwards the new one is on the disk. What a kill between naming
and renaming leaves is locked by nobody, so the next file of that name removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from tmem.errors import SaveError

__all__ = ["NewFile"]

_MODE: Final = 0o600
_DRAIN: Final = 32 << 20
"""Bytes that may lie in the page cache: beyond it they go to the disk, for they count as this program's memory."""

_NO_UNNAMED: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
_PLAIN: Final = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR}
"""Python has a class for each, and their texts say all."""

_REMEDIES: Final = {
    errno.ENOSPC: "free space on that file system, or save elsewhere",
    errno.EDQUOT: "free space below your quota, or save elsewhere",
    errno.EFBIG: "raise `ulimit -f`, or save elsewhere",
    errno.EROFS: "save where files can be written",
    errno.EIO: "the disk failed: save elsewhere",
}


class NewFile:
    """A file to be, at a path, which `write` fills and `publish` puts there.

    A link at the path stays, and what it leads to is replaced.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        directory, self._name = os.path.split(os.path.realpath(self._path))
        self._owner = os.getpid()
        self._temporary: str | None = None
        self._written = self._drained = 0
        with self._telling():
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._telling():
                self._refuse_what_is_no_file()
                self._remove_leftovers()
                self._file = self._make()
        except BaseException:
            os.close(self._directory)
            raise

    def write(self, piece: bytes) -> None:
        """Append a piece. SaveError, with the next step, where the disk takes no more."""
        view = memoryview(piece)
        with self._telling():
            self._refuse_a_child()
            while view:
                count = os.pwrite(self._file, view, self._written)
                view = view[count:]
                self._written += count
            if self._written - self._drained >= _DRAIN:
                self._drain()

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        with self._telling():
            self._refuse_a_child()
            os.fsync(self._file)
            self._drain()

    def publish(self) -> None:
        """Put the file in its place, on the disk."""
        self.sync()
        with self._telling():
            if self._temporary is None:
                self._temporary = self._link()
            os.rename(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._temporary = None
        try:
            os.fsync(self._directory)
        except OSError as error:
            text = f"{error.strerror}: the new file is there, but may be gone after a power cut; save elsewhere"
            raise SaveError(error.errno, text, self._path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary is not None and self._owner == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._directory)
        os.close(self._file)
        os.close(self._directory)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Say of what the kernel refuses which file it was, that the old one stays, and what to do."""
        try:
            yield
        except SaveError:
            raise
        except OSError as error:
            if error.errno in _PLAIN:
                raise OSError(error.errno, error.strerror, self._path) from error
            remedy = _REMEDIES.get(error.errno or 0, "save elsewhere")
            text = f"{error.strerror} after {self._written} bytes; what was there before is as it was: {remedy}"
            raise SaveError(error.errno, text, self._path) from error

    def _refuse_a_child(self) -> None:
        """Refuse to go on in a child that was forked in the middle: it has the parent's file."""
        if self._owner != os.getpid():
            raise SaveError(errno.ECANCELED, "a forked child does not go on with a save: save again", self._path)

    def _refuse_what_is_no_file(self) -> None:
        try:
            there = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._path)
        if not stat.S_ISREG(there.st_mode):
            raise SaveError(errno.EEXIST, "a device, pipe or socket is there: save to a file", self._path)

    def _make(self) -> int:
        """Open a file without a name, or where there is no such thing, one with a passing name."""
        how = os.O_RDWR | os.O_CLOEXEC
        try:
            file = os.open(".", how | os.O_TMPFILE, _MODE, dir_fd=self._directory)
        except OSError as error:
            if error.errno not in _NO_UNNAMED:
                raise
        else:
            if os.access("/proc/self/fd", os.X_OK):
                self._own(file)
                return file
            os.close(file)
        while True:
            name = self._passing_name()
            file = os.open(name, how | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE, dir_fd=self._directory)
            self._own(file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(name, dir_fd=self._directory, follow_symlinks=False), os.fstat(file)):
                    self._temporary = name
                    return file
            os.close(file)  # taken for a leftover before it was locked

    def _own(self, file: int) -> None:
        os.fchmod(file, _MODE)
        with contextlib.suppress(OSError):  # no locks here: then leftovers are left alone, too
            fcntl.flock(file, fcntl.LOCK_EX)

    def _link(self) -> str:
        name = self._passing_name()
        # With a directory's descriptor the link that /proc shows is followed to the file itself.
        os.link(f"/proc/self/fd/{self._file}", name, dst_dir_fd=self._directory, follow_symlinks=True)
        return name

    def _passing_name(self) -> str:
        return self._passing_prefix() + secrets.token_hex(8)

    def _passing_prefix(self) -> str:
        of_name = hashlib.blake2b(os.fsencode(self._name), digest_size=8).hexdigest()
        return f".tmem-saving-{of_name}-"

    def _remove_leftovers(self) -> None:
        """Remove what killed programs left on their way to this name: files that nobody has locked."""
        prefix = self._passing_prefix()
        with os.scandir(self._directory) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(prefix)]
        for name in names:
            with contextlib.suppress(OSError):
                file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._directory)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=self._directory)
                finally:
                    os.close(file)

    def _drain(self) -> None:
        os.fdatasync(self._file)
        os.posix_fadvise(self._file, 0, self._written, os.POSIX_FADV_DONTNEED)
        self._drained = self._written
