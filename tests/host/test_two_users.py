# SPDX-License-Identifier: Apache-2.0
"""Two users on one machine: neither can read, guess or exhaust the other's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.host.daemonprocess import Daemon

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("need_root")]

FIRST, SECOND = 54321, 54322
MIB = 1 << 20

# Everything is imported as root, because the interpreter may lie where others cannot read.
BECOME = """
import ctypes, errno, json, mmap, os, signal, socket, sys
import msgspec, tmem
from tmem import wire
from tests.hostguest import RawGuest
def become(uid):
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # its /proc belongs to it again
"""

VICTIM = (
    BECOME
    + """
become(int(sys.argv[2]))
with RawGuest(sys.argv[1]) as guest:
    assert guest.lease(8) == 8, "its reservation is there"
    ids, fds = guest.extents()
    for fd in fds:
        os.pwrite(fd, b"a secret of the first user", 0)
    mapped = mmap.mmap(fds[0], 1 << 20)
    at = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    print(json.dumps({"pid": os.getpid(), "ids": list(ids), "fds": list(fds), "at": at}), flush=True)
    sys.stdin.readline()
    print(json.dumps({"joined": guest.join(bytes(16))}), flush=True)  # a secret that everybody knows
    sys.stdin.readline()
    same = all(os.pread(fd, 26, 0) == b"a secret of the first user" for fd in fds)
    print(json.dumps({"same": same, "more": guest.lease(4)}), flush=True)
"""
)

THIEF = (
    BECOME
    + """
victim = json.loads(sys.argv[3])
become(int(sys.argv[2]))
told = {"opened": [], "read": 0}
def note(what, path, flags):
    try:
        os.close(os.open(path, flags))
        told["opened"].append(what)
    except OSError as error:
        assert error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT), error
for fd in victim["fds"]:
    note("descriptor", f"/proc/{victim['pid']}/fd/{fd}", os.O_RDONLY)
note("memory", f"/proc/{victim['pid']}/mem", os.O_RDONLY)
note("mapping", f"/proc/{victim['pid']}/map_files/{victim['at']:x}-{victim['at'] + (1 << 20):x}", os.O_RDONLY)
for directory in (f"/proc/{victim['pid']}/map_files", f"/proc/{victim['pid']}/fd", f"/proc/{victim['daemon']}/fd"):
    try:
        told["opened"] += os.listdir(directory)
    except PermissionError:
        pass
libc = ctypes.CDLL(None, use_errno=True)
def denied(what, result):
    if result != -1 or ctypes.get_errno() not in (errno.EPERM, errno.EACCES):
        told["opened"].append(what)
for pid in (victim["pid"], victim["daemon"]):
    denied("ptrace", libc.ptrace(16, pid, None, None))  # PTRACE_ATTACH
    here = (ctypes.c_size_t * 2)(ctypes.addressof(ctypes.create_string_buffer(64)), 26)
    there = (ctypes.c_size_t * 2)(victim["at"], 26)
    denied("process_vm_readv", libc.process_vm_readv(pid, here, 1, there, 1, 0))
    pidfd = os.pidfd_open(pid)
    for fd in victim["fds"] if pid == victim["pid"] else range(3, 64):
        denied("pidfd_getfd", libc.syscall(438, pidfd, fd, 0))
    try:
        os.kill(pid, signal.SIGSTOP)
        told["opened"].append("signal")
    except PermissionError:
        pass
note("administrator", sys.argv[1] + ".admin", os.O_RDWR)
admin = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    admin.connect(sys.argv[1] + ".admin")
    told["opened"].append("administrator's socket")
except PermissionError:
    pass
# Everything it can get, on as many connections as it may have: what is reserved for the first stays.
guests, got = [], 0
try:
    for _ in range(40):
        guest = RawGuest(sys.argv[1]).__enter__()
        guests.append(guest)
        while (more := guest.lease(32)) > 0:
            got += more
            _, fds = guest.extents()
            told["read"] += sum(any(os.pread(fd, 4096, 0)) for fd in fds)
except (ConnectionError, OSError) as error:
    told["refused"] = str(error)
told["got"] = got
try:
    while True:  # and it asks, and reads nothing
        deaf = RawGuest(sys.argv[1])
        guests.append(deaf)
        deaf.socket.settimeout(0)
        for seq in range(64):
            deaf.send(wire.Lease(seq, 1, 0, 32))
except (ConnectionError, OSError):
    pass
for guest in guests[40:]:
    guest.close()
with RawGuest(sys.argv[1]) as guest:
    told["joined"] = [guest.join(secret) for secret in [bytes(16), *(os.urandom(16) for _ in range(500))]]
with RawGuest(sys.argv[1]) as guest:
    try:
        guest.give(victim["ids"])
    except (ConnectionError, AssertionError):
        pass
print(json.dumps(told))
"""
)


def _python(script: str, *arguments: str) -> subprocess.Popen[str]:
    here = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])},
    )


@pytest.fixture
def shared_directory(tmp_path: Path) -> Path:
    """A directory that other users may enter, as /run/tmem is."""
    for directory in [tmp_path, *tmp_path.parents]:
        if directory.stat().st_mode & 0o001 == 0 and directory.owner() == "root" and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    return tmp_path


def test_neither_reads_guesses_or_exhausts_the_others(shared_directory: Path) -> None:
    config = f"""
[[guest]]
uid = {FIRST}
reservation = "12M"
[[guest]]
uid = {SECOND}
cap = "16M"
"""
    with Daemon(shared_directory, "--capacity", "64M", "--extent", "1M", config=config) as daemon:
        victim = _python(VICTIM, str(daemon.path), str(FIRST))
        assert victim.stdin is not None
        assert victim.stdout is not None
        held = json.loads(victim.stdout.readline())
        daemon.ask("shared-auth", guest=f"pid:{held['pid']}", secret="00" * 16, allow=True)
        victim.stdin.write("join\n")
        victim.stdin.flush()
        assert json.loads(victim.stdout.readline()) == {"joined": ""}
        thief = _python(THIEF, str(daemon.path), str(SECOND), json.dumps(held | {"daemon": daemon.pid}))
        out, _ = thief.communicate(timeout=60)
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert told["opened"] == []
        assert told["read"] == 0, "an extent came with something in it"
        assert set(told["joined"]) == {"not-granted"}, "a secret is not enough, and none is guessed"
        assert told["got"] * MIB <= 64 * MIB - 12 * MIB
        victim.stdin.write("go on\n")
        victim.stdin.flush()
        assert json.loads(victim.stdout.readline()) == {"same": True, "more": 4}
        victim.stdin.close()
        assert victim.wait(30) == 0
        victim.stdout.close()
