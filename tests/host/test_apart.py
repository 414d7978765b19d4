# SPDX-License-Identifier: Apache-2.0
"""What one user does with the daemon's time and descriptors is not felt by another."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.host.daemonprocess import Daemon
from tests.host.daemonthread import ThreadDaemon
from tests.hostguest import RawGuest
from tmem import wire
from tmem.daemon import closing, peer

HOG, OTHER = 4001, 4002


class Users(list[int]):
    """The user that the next guest is of, as the daemon sees it."""

    def becomes(self, uid: int) -> None:
        self[:] = [uid]


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Users:
    who = Users([OTHER])
    monkeypatch.setattr(peer, "credentials", lambda _: (os.getpid(), who[0], who[0]))
    return who


class Lingering:
    """A socket whose close waits until all that was written to it is read, which nobody does before `end`."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.socket = socket.create_connection(server.getsockname())
            self._reader, _ = server.accept()
        self.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.send(bytes(1 << 16))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        self.socket.settimeout(None)

    def end(self) -> None:
        self._reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._reader.close()  # with a reset


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_descriptors_that_take_long_to_close_hold_nobody_up(tmp_path: Path, user: Users, *, read: bool) -> None:
    slow = Lingering()
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as other:
        user.becomes(HOG)
        with daemon.guest("hog") as hog:
            daemon.pause(0.2)
            if not read:  # they lie behind a message that ends the connection
                hog.send_raw(b"\xff")
            hog.send(wire.Claim(1, 0, 0, [1]), [slow.socket.fileno()])
            slow.socket.close()
            begin = time.monotonic()
            daemon.wait_until(lambda: closing.waiting(HOG) > 0, "the close to begin")
            assert other.lease(1) == 1
            assert time.monotonic() - begin < 5
        slow.end()
        daemon.wait_until(lambda: closing.waiting(HOG) == 0, "the close to end")


def test_who_sends_many_such_descriptors_is_let_in_no_more(
    tmp_path: Path, user: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        monkeypatch.setattr(closing, "waiting", lambda uid: 65 if uid == HOG else 0)
        user.becomes(HOG)
        with pytest.raises(ConnectionError, match="cannot be closed"):
            daemon.guest()
        user.becomes(OTHER)
        daemon.guest().close()


def test_before_its_hello_nobody_sends_descriptors(tmp_path: Path) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 16):
        pytest.skip("this kernel has no SO_PASSRIGHTS: needs Linux 6.16")
    with ThreadDaemon(tmp_path) as daemon, RawGuest(daemon.path, None) as early:
        with pytest.raises(PermissionError):
            early.send(wire.Claim(1, 0, 0, [1]), [0])
        with daemon.guest() as guest:
            assert guest.claim([1], [0]) == [0]


def test_while_there_are_others_nobody_takes_more_than_its_part_of_the_time(tmp_path: Path, user: Users) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as other:
        user.becomes(HOG)
        times = daemon.daemon.server._times
        with daemon.guest("hog") as hog:
            daemon.call(lambda: times[HOG].take(time.monotonic(), 0.4))  # a lot of work
            begin = time.monotonic()
            assert hog.lease(1) == 1
            assert time.monotonic() - begin > 0.2, "it waits for its debt"
            assert other.lease(1) == 1
            daemon.call(lambda: times[HOG].take(time.monotonic(), 5.0))
            other.close()
            assert hog.lease(1) == 1, "alone, it has all of it"
        user.becomes(OTHER)
        with daemon.guest():
            assert daemon.call(lambda: HOG not in times), "no debt, no guest: nothing is kept"


def test_who_reads_nothing_gets_no_more_descriptors(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, extent="1M") as daemon, daemon.guest() as deaf, daemon.guest() as other:
        for seq in range(1000, 1020):
            deaf.send(wire.Lease(seq, 0, 0, 8))
        daemon.wait_until(lambda: daemon.host.refused["busy"] > 0, "it to be refused")
        assert daemon.call(lambda: deaf_bytes(daemon)) < 60 << 20
        assert other.lease(2) == 2


def deaf_bytes(daemon: ThreadDaemon) -> int:
    return max(sum(guest.holding.bytes) for guest in daemon.host.guests.values())


def test_a_claim_that_there_are_no_descriptors_for_is_asked_for_again(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--capacity", "16M", "--extent", "1M") as daemon, RawGuest(daemon.path) as guest:
        assert guest.lease(2) == 2
        kept = os.dup(guest.extents()[1][0])
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (daemon.descriptors() + 1, before[1]))
        seq = guest.next_seq()
        guest.send(wire.Claim(seq, 0, 0, [1, 2, 3, 4]), [kept] * 4)
        message, _ = guest.answer(seq)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        assert isinstance(message, wire.Refused)
        assert message.reason == "busy"
        os.close(kept)
        assert guest.lease(1) == 1, "it is a guest as before"
