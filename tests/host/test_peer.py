# SPDX-License-Identifier: Apache-2.0
"""Who a guest is: what the kernel says of its connection, and whom the host does not take."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.host.daemonthread import ThreadDaemon
from tmem.daemon import peer
from tmem.daemon.peer import Peer, PeerRefusedError
from tmem.ledger import start_time


class Told:
    """A socket whose other end is whoever the test says."""

    def __init__(self, pid: int, uid: int, pidfd: int | OSError) -> None:
        self._said = {socket.SO_PEERCRED: struct.pack("3i", pid, uid, uid), 77: pidfd}

    def getsockopt(self, _level: int, name: int, _size: int = 0) -> Any:
        said = self._said[name]
        if isinstance(said, OSError):
            raise said
        return said


def look(sock: Any, **allowed: bool) -> Peer:
    return peer.look(sock, **allowed)


OLD = OSError(92, "Protocol not available")


def test_this_process_is_known_by_all_that_the_kernel_says() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        who = look(ours)
        assert (who.pid, who.uid) == (os.getpid(), os.geteuid())
        assert who.process == (os.getpid(), start_time(os.getpid()))
        assert who.cgroup in Path("/proc/self/cgroup").read_text(encoding="utf-8")
        assert not os.get_inheritable(who.pidfd)
        who.close()
        who.close()


def test_an_older_kernel_gives_a_pidfd_too_and_it_tells_the_end() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        who = look(Told(child.pid, os.geteuid(), OLD))
        assert not select.select([who.pidfd], [], [], 0)[0]
        child.kill()
        assert select.select([who.pidfd], [], [], 5)[0]
        who.close()


def test_a_number_that_went_to_another_users_process_is_not_taken_for_the_guest() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with subprocess.Popen(["sleep", "60"], user=4321 if os.geteuid() == 0 else None) as child:
        with pytest.raises(PeerRefusedError, match="ended"):
            look(Told(child.pid, 1234, OLD))
        child.kill()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("said", [ProcessLookupError(3, "No such process"), OLD])
def test_a_process_that_has_ended_is_refused(said: OSError) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    with pytest.raises(PeerRefusedError, match="ended"):
        look(Told(child.pid, os.geteuid(), said))


def test_who_cannot_be_told_from_others_is_refused_unless_configured() -> None:
    with pytest.raises(PeerRefusedError, match="allow_invisible_pid"):
        look(Told(0, 1000, OLD))
    unseen = look(Told(0, 1000, OLD), allow_invisible_pid=True)
    assert (unseen.pid, unseen.pidfd, unseen.cgroup, unseen.process) == (0, -1, "", (0, 0))
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    with pytest.raises(PeerRefusedError, match="allow_overflow_uid"):
        look(Told(os.getpid(), overflow, OLD))
    nobody = look(Told(0, overflow, OLD), allow_overflow_uid=True, allow_invisible_pid=True)
    assert nobody.uid == overflow


def test_who_is_refused_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unseen(_: socket.socket) -> tuple[int, int, int]:
        return 0, 1000, 1000

    with ThreadDaemon(tmp_path) as daemon:
        monkeypatch.setattr(peer, "credentials", unseen)
        with pytest.raises(ConnectionError, match="process namespace"):
            daemon.guest()
        monkeypatch.undo()
        with daemon.guest() as guest:
            assert guest.lease(1) == 1
    with ThreadDaemon(tmp_path, allow_invisible_pid=True) as daemon:
        monkeypatch.setattr(peer, "credentials", unseen)
        with daemon.guest() as guest:
            assert guest.lease(1) == 1
        monkeypatch.undo()
        daemon.wait_until(lambda: not daemon.host.ledger.taken)


def test_whose_number_may_be_anothers_by_now_is_refused() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        pidfd = os.pidfd_open(child.pid)
        child.kill()
        select.select([pidfd], [], [])
        with pytest.raises(PeerRefusedError, match="ended"):
            look(Told(child.pid, os.geteuid(), pidfd))
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(pidfd)


def test_an_unseen_process_is_never_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "credentials", lambda _: (0, os.geteuid(), os.getegid()))
    with ThreadDaemon(tmp_path, allow_invisible_pid=True) as daemon, daemon.guest("web") as first:
        daemon.ask("shared-auth", guest="web", secret="ab" * 16, allow=True)
        daemon.ask("set", guest="web", reservation=1 << 20, weight=9)
        assert first.join(b"\xab" * 16) == ""
        with daemon.guest("web") as second:
            assert second.join(b"\xab" * 16) == "not-granted"
            assert [guest["weight"] for guest in daemon.ask("list")["guests"]] == [9, 1]
