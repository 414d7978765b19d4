# SPDX-License-Identifier: Apache-2.0
"""The ledger of a process tree: one small file that every process of `tmem run` maps, so that all share one budget.

Owns: the file's name, place and header, and the removal of files whose processes are gone. Called by launch and cli.
The preload object maps it and fills the slots. Layout, little-endian 64-bit numbers: the magic, version, budget in
bytes, the first process and the time it started (field 22 of its stat); from byte 4096 on slots of 128 bytes, which
begin with a process and the time it started.
The name has the user, the first process, the namespace of its number and something random.
Law: a file is removed only when no process that stands in it is alive, whoever has its number by now. Containers may
share /dev/shm and not their numbers: those of another namespace are left alone.
"""

from __future__ import annotations

import errno
import os
import stat

from tmem.errors import TmemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["SIZE", "create", "fields_of", "of_process", "places", "processes", "start_time", "sweep"]

SIZE = 64 << 10
_MAGIC = b"tmemledg"
_VERSION = 1
_HEADER, _SLOTS, _SLOT, _WORD = 40, 4096, 128, 8
_ROOT = 24
_PREFIX = "tmem-run"
_WORDS = 5


def places(env: Mapping[str, str]) -> list[str]:
    """Return the directories where a ledger may be, best first: in memory, the user's own, temporary."""
    named = [env.get(name, "") for name in ("XDG_RUNTIME_DIR", "TMPDIR")]
    return ["/dev/shm", *(path for path in named if path.startswith("/")), "/tmp"]  # noqa: S108 - made with O_EXCL


def create(ram: int, env: Mapping[str, str]) -> str:
    """Make the ledger of a tree that begins with this process, with a budget of `ram` bytes; return its path.

    TmemError where no directory takes it.
    """
    pid = os.getpid()
    since = start_time(pid)
    if since is None:
        raise TmemError("/proc does not tell when this process started: mount /proc")
    header = _MAGIC + b"".join(number.to_bytes(_WORD, "little") for number in (_VERSION, ram, pid, since))
    refused = []
    for directory in dict.fromkeys(places(env)):
        path = f"{directory}/{_PREFIX}-{os.geteuid()}-{pid}-{_namespace()}-{os.urandom(8).hex()}"
        try:
            _write(path, header)
        except OSError as error:
            refused.append(f"{directory}: {error.strerror}")
        else:
            return path
    raise TmemError(f"no directory takes the ledger ({'; '.join(refused)}): set TMPDIR to one that may be written to")


def sweep(env: Mapping[str, str]) -> list[str]:
    """Remove the ledgers of this user whose processes are all gone; return their paths."""
    gone = []
    for directory in dict.fromkeys(places(env)):
        for path in _of_this_user(directory):
            try:
                if not any(start_time(pid) == since for pid, since in processes(path)):
                    os.unlink(path)
                    gone.append(path)
            except OSError:
                continue  # another sweep was faster, or it is not ours to read
    return gone


def processes(path: str) -> list[tuple[int, int]]:
    """Return (process, start time) of the first process of a ledger and of every slot in use.

    OSError where it cannot be read. What is no ledger yet counts as that of the process in its name, so that one that
    is being made is left alone for as long as its maker lives.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, SIZE, 0)
    finally:
        os.close(descriptor)
    if not data.startswith(_MAGIC) or len(data) < _HEADER:
        _, pid, _ = _parts(path.rpartition("/")[2])
        return [(pid, start_time(pid) or 0)] if pid else []
    found = [_pair(data, _ROOT), *(_pair(data, at) for at in range(_SLOTS, len(data) - _SLOT + 1, _SLOT))]
    return [(pid, since) for pid, since in found if pid]


def of_process(pid: int) -> str:
    """Return the path of the ledger that a process was started with. OSError where it has none, or hides it."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        words = file.read().split(b"\0")
    told = next((os.fsdecode(word) for word in words if word.startswith(b"TMEM_RUN=")), "")
    path = fields_of(told.partition("=")[2]).get("ledger", "")
    if not path:
        raise FileNotFoundError(errno.ENOENT, "it was not started by tmem run")
    return path


def fields_of(told: str) -> dict[str, str]:
    """Return the fields of TMEM_RUN; no more than its shape is looked at."""
    pairs = (part.partition("=") for part in told.split(";"))
    return {name: _plain(value) for name, _, value in pairs}


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None where there is none, or only its exit status."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields[0] not in (b"Z", b"X") else None


def _write(path: str, header: bytes) -> None:
    """Make the file at its full size, with its room taken: a mapping of it must not fail later, in the program."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask is
        os.posix_fallocate(descriptor, 0, SIZE)
        os.pwrite(descriptor, header, 0)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _of_this_user(directory: str) -> Iterator[str]:
    """Yield the ledgers in a directory that belong to this user: regular files only, never where a link leads."""
    mine = (os.geteuid(), _namespace())
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        user, _, namespace = _parts(name)
        if (user, namespace) != mine:
            continue
        try:
            info = os.lstat(f"{directory}/{name}")
        except OSError:
            continue
        if stat.S_ISREG(info.st_mode) and info.st_uid == user:
            yield f"{directory}/{name}"


def _parts(name: str) -> tuple[int, int, str]:
    """Return the user, process and namespace in a ledger's name; a process 0 for what is not one."""
    words = name.removeprefix(_PREFIX).split("-")
    if not name.startswith(_PREFIX) or len(words) != _WORDS or not (words[1] + words[2]).isdecimal():
        return -1, 0, ""
    return int(words[1]), int(words[2]), words[3]


def _namespace() -> str:
    """Return which namespace this process's number is of."""
    return f"{os.stat('/proc/self/ns/pid').st_ino:x}"


def _plain(text: str) -> str:
    """Undo percent-encoding."""
    first, *others = os.fsencode(text).split(b"%")
    digits = b"0123456789abcdefABCDEF"
    for part in others:
        good = len(part) > 1 and part[0] in digits and part[1] in digits
        first += bytes([int(part[:2], 16)]) + part[2:] if good else b"%" + part
    return os.fsdecode(first)


def _pair(data: bytes, at: int) -> tuple[int, int]:
    first, second = data[at : at + _WORD], data[at + _WORD : at + 2 * _WORD]
    return int.from_bytes(first, "little"), int.from_bytes(second, "little")
