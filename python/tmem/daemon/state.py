# SPDX-License-Identifier: Apache-2.0
"""What a daemon leaves behind for the next: who holds which memory, may join which shared pool, and was set how.

Owns: one small file beside the socket, a line for each change. Called by flow, pools and admin. Calls nothing above the
kernel. It is read once, at the start. A line that was cut off by a kill is passed over; lines of processes that have
ended are dropped.
Law: the file can only make the next daemon more careful. Without it guests still claim what they hold.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from tmem.ledger import start_time

__all__ = ["Process", "State"]

_LOG = logging.getLogger(__name__)
_VERSION: Final = 2
_SLACK: Final = 4096  # lines beyond twice of what counts, before the file is written anew
_RETRY_SECONDS: Final = 10.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_HELD, _ENDED, _ALLOWED, _SET = "+", "-", "allow", "set"

Process = tuple[int, int]
"""A process: its number, and when it started."""
Key = tuple[int, int, str]
"""A guest: its process, and the name it gave itself there."""


_Entry = tuple[Key, int, int, int]
"""Whose memory it is, its kind, its bytes, and the guest's number: a process may have several guests of one name."""


class State:
    """The file at `path`; without one, everything is forgotten at the end."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd = -1
        self._lines = 0
        self._retry = math.inf  # when to begin the file anew, after it could not be written
        self._reserves = True
        self._now: dict[int, _Entry] = {}  # by inode: of this daemon
        self._before: dict[int, _Entry] = {}  # the same of the last, where not claimed yet
        self._allowed: dict[Key, set[str]] = {}
        self._set: dict[Key, dict[str, Any]] = {}

    def open(self, alive: Callable[[Process], bool] | None = None) -> None:
        """Read what the last daemon left, and begin anew."""
        if self._path is None:
            return
        lives = alive or _lives
        self._read()
        self._before, self._now = {i: one for i, one in self._now.items() if lives(one[0][:2])}, {}
        self._allowed = {key: found for key, found in self._allowed.items() if lives(key[:2])}
        self._set = {key: found for key, found in self._set.items() if lives(key[:2])}
        self._rewrite()

    def close(self) -> None:
        """Stop writing. The file stays, for the next daemon."""
        self._retry = math.inf
        self._shut()

    # What was before

    def unclaimed(self) -> int:
        """Return the bytes that guests of the last daemon hold and have not claimed, while they are kept for them."""
        return sum(size for _, _, size, _ in self._before.values()) if self._reserves else 0

    def reserved(self, inode: int) -> int:
        """Return what of this is kept for this memory."""
        found = self._before.get(inode)
        return found[2] if found is not None and self._reserves else 0

    def end_reservations(self) -> None:
        """Keep nothing any longer. Whose memory was whose is still known."""
        self._reserves = False
        self._before = {inode: one for inode, one in self._before.items() if _lives(one[0][:2])}

    def owner(self, inode: int) -> Process | None:
        """Return the process that had this memory when the last daemon ended, until it is claimed."""
        found = self._before.get(inode)
        return None if found is None else found[0][:2]

    def kind(self, inode: int) -> int | None:
        """Return what kind of extent it was then."""
        found = self._before.get(inode)
        return None if found is None else found[1]

    def settle(self, key: Key, was: set[int]) -> int:
        """Note that a guest has claimed all it has; return the bytes that were kept for it beyond that.

        They were granted as the last daemon ended, and never came. `was`: its numbers there, as its claims show. Where
        they show none, and there were several of its name, nobody knows which of them it was.
        """
        numbers = {one[3] for one in self._before.values() if one[0] == key}
        mine = numbers & was if was else numbers
        if not was and len(numbers) > 1:
            return 0
        rest = [inode for inode, one in self._before.items() if one[0] == key and one[3] in mine]
        freed = sum(self.reserved(inode) for inode in rest)
        for inode in rest:
            del self._before[inode]
            self._write([_ENDED, inode])
        return freed

    def claimed(self, inode: int) -> int | None:
        """Memory came back to its holder; return the number that this had."""
        found = self._before.pop(inode, None)
        return None if found is None else found[3]

    # What is now

    def held(self, key: Key, inode: int, kind: int, size: int, number: int = 0) -> None:
        """Note that a guest holds this memory from now on."""
        self._now[inode] = (key, kind, size, number)
        self._write([_HELD, *key, inode, kind, size, number])

    def ended(self, inode: int) -> None:
        """Note that it holds it no longer."""
        if self._now.pop(inode, None) is not None:
            self._write([_ENDED, inode])

    def allow(self, key: Key, digest: str, *, allowed: bool) -> None:
        """Note that a guest may, or may no longer, join the pool of a secret, which is kept as its digest."""
        found = self._allowed.setdefault(key, set())
        (found.add if allowed else found.discard)(digest)
        self._write([_ALLOWED, *key, digest, allowed])

    def allowed(self, key: Key) -> set[str]:
        """Return the digests of what a guest may join."""
        return set(self._allowed.get(key, ()))

    def set(self, key: Key, terms: dict[str, Any]) -> None:
        """Note how the operator has set a guest."""
        self._set[key] = terms
        self._write([_SET, *key, terms])

    def terms(self, key: Key) -> dict[str, Any]:
        """Return how the operator had set a guest."""
        return dict(self._set.get(key, {}))

    def left(self, process: Process) -> None:
        """Forget what was set for the guests of a process, if it has ended and not only its connection."""
        if _lives(process):
            return
        for table in (self._allowed, self._set):
            for key in [key for key in table if key[:2] == process]:
                del table[key]

    # The file

    def _read(self) -> None:
        try:
            data = _read_own(self._path or "")
        except FileNotFoundError:
            return
        except OSError as error:
            _LOG.warning("%s cannot be read (%s): guests have to claim without it", self._path, error.strerror)
            return
        lines = data.split(b"\n")[:-1]  # behind the last end of a line is nothing, or half a line
        try:
            if not lines or msgspec.json.decode(lines[0]) != [_VERSION, _boot()]:
                return  # of another version, or of before the machine was started
            for line in lines[1:]:
                self._apply(msgspec.json.decode(line))
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError):
            _LOG.warning("%s is damaged: guests have to claim without the rest of it", self._path)

    def _apply(self, change: list[Any]) -> None:
        match change:
            case [str(word), int(pid), int(since), str(name), int(inode), int(kind), int(size), int(number)] if (
                word == _HELD
            ):
                self._now[inode] = ((pid, since, name), kind, size, number)
            case [str(word), int(inode)] if word == _ENDED:
                self._now.pop(inode, None)
            case [str(word), int(pid), int(since), str(name), str(digest), bool(on)] if word == _ALLOWED:
                found = self._allowed.setdefault((pid, since, name), set())
                (found.add if on else found.discard)(digest)
            case [str(word), int(pid), int(since), str(name), dict(terms)] if word == _SET:
                self._set[pid, since, name] = terms
            case _:
                raise ValueError(change)

    def _write(self, change: list[Any]) -> None:
        if self._fd < 0:
            if time.monotonic() >= self._retry:
                self._rewrite()
            return
        self._lines += 1
        if self._lines > 2 * (len(self._now) + len(self._before)) + _SLACK:
            self._rewrite()
            return
        try:
            self._put(msgspec.json.encode(change) + b"\n")
        except OSError as error:
            self._fail(error)

    def _put(self, data: bytes) -> None:
        if os.write(self._fd, data) != len(data):
            raise OSError(errno.ENOSPC, "the disk is full")

    def _fail(self, error: OSError) -> None:
        """Remove the file: one that does not tell what was taken back since would give it again."""
        _LOG.warning("%s cannot be written (%s): the next daemon may know nothing", self._path, error.strerror)
        self._shut()
        self._retry = time.monotonic() + _RETRY_SECONDS
        for name in (f"{self._path}.new", self._path or ""):
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108 - a name, as given

    def _shut(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _rewrite(self) -> None:
        """Write all that counts into a new file, and put it in the place of the old one."""
        if self._path is None:
            return
        whole = {**self._before, **self._now}
        changes: list[list[Any]] = [[_HELD, *key, inode, *rest] for inode, (key, *rest) in whole.items()]
        changes += [[_ALLOWED, *key, digest, True] for key, found in self._allowed.items() for digest in found]
        changes += [[_SET, *key, terms] for key, terms in self._set.items()]
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in ([_VERSION, _boot()], *changes))
        new = f"{self._path}.new"
        self._shut()
        self._retry = math.inf
        try:
            with suppress(FileNotFoundError):
                os.unlink(new)  # noqa: PTH108 - a name, as given
            self._fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._put(data)
            os.rename(new, self._path)  # noqa: PTH104 - as above
        except OSError as error:
            self._fail(error)
        self._lines = len(changes)


def _read_own(path: str) -> bytes:
    """Return a file of this user's, that nobody else can have written. OSError for any other."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        about = os.fstat(file.fileno())
        if about.st_uid != os.geteuid() or about.st_mode & 0o022 or not stat.S_ISREG(about.st_mode):
            raise PermissionError(errno.EPERM, "it is not this user's alone")
        return file.read()


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _lives(process: Process) -> bool:
    return start_time(process[0]) == process[1]
