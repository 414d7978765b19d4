# SPDX-License-Identifier: Apache-2.0
"""Guests that mean ill: whatever they send, the daemon goes on, and another guest's memory stays its own."""

from __future__ import annotations

import array
import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.host.daemonprocess import Daemon, wait_for
from tests.host.flock import Flock
from tests.hostguest import RawGuest

MIB = 1 << 20
MESSAGES = int(os.environ.get("TMEM_FUZZ_MESSAGES", "1000000"))
TAGS = (
    "hello", "lease", "give", "claim", "report", "shrunk", "ballooned", "join", "leave",
    "welcome", "granted", "refused", "done", "shrink", "balloon", "set", "revoked", "joined", "member", "gone", "error",
)  # fmt: skip


class Fuzzer:
    """Sends what no guest would, on connections that it makes anew when it is thrown out."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.socket: socket.socket | None = None
        self.sent = 0
        self.thrown_out = 0

    def run(self, messages: int) -> None:
        while self.sent < messages:
            try:
                self._send_some(min(64, messages - self.sent))
            except (BrokenPipeError, ConnectionError, TimeoutError):
                self.thrown_out += 1
                self.close()
        self.close()

    def _send_some(self, count: int) -> None:
        sock = self.socket or self._connect()
        for _ in range(count):
            fds = self._descriptors()
            try:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                with contextlib.suppress(PermissionError):  # no descriptors before the hello
                    sock.sendmsg([self._message()], rights)
                self.sent += 1
            finally:
                for fd in fds:
                    os.close(fd)
        with contextlib.suppress(BlockingIOError):
            while self.chance.random() < 0.9:  # a slow reader now and then
                got, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(32 * 4), socket.MSG_DONTWAIT)
                for _, _, data in ancillary:
                    for fd in array.array("i", data[: len(data) // 4 * 4]):
                        os.close(fd)
                if not got:
                    raise ConnectionResetError

    def _connect(self) -> socket.socket:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        self.socket.connect(str(self.path))
        if self.chance.random() < 0.8:  # so that what follows is looked at
            self.socket.send(msgspec.msgpack.encode(["hello", 1, "fuzzer"]))
        return self.socket

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _descriptors(self) -> list[int]:
        if self.chance.random() > 0.02:
            return []
        kinds: list[Callable[[], int]] = [
            lambda: os.open("/dev/null", os.O_RDWR),
            lambda: os.open("/", os.O_RDONLY),
            lambda: os.memfd_create("tmem-extent"),
            lambda: os.memfd_create("tmem-extent", os.MFD_ALLOW_SEALING),
            lambda: socket.socket(socket.AF_UNIX).detach(),
            lambda: os.dup(2),
        ]
        return [self.chance.choice(kinds)() for _ in range(self.chance.choice([1, 1, 2, 16]))]

    def _message(self) -> bytes:
        chance = self.chance
        kind = chance.random()
        if kind < 0.2:
            return chance.randbytes(chance.choice([1, 2, 7, 64, 1000]))
        message = msgspec.msgpack.encode([self._tag(), *[self._value() for _ in range(chance.randint(0, 8))]])
        if kind < 0.6:
            message = msgspec.msgpack.encode(self._likely())
        if kind > 0.9:  # some bytes of it changed, or the end cut off
            bent = bytearray(message)
            bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
            message = bytes(bent[: chance.randint(1, len(bent))])
        return message

    def _tag(self) -> object:
        return self.chance.choice(TAGS) if self.chance.random() < 0.9 else self._value()

    def _likely(self) -> list[object]:
        """Return a message of the right form, with numbers that may be anything."""
        chance, number = self.chance, self._number
        return chance.choice(
            [
                ["lease", number(), chance.choice([0, 1, 2, 3, number()]), number(), number()],
                ["give", number(), [number() for _ in range(chance.choice([0, 1, 3, 300]))]],
                ["claim", number(), number(), number(), [number() for _ in range(chance.choice([0, 1, 2, 40]))]],
                ["report", *[number() for _ in range(15)]],
                ["shrunk", number(), number()],
                ["ballooned", number(), number()],
                ["join", number(), chance.randbytes(chance.choice([16, 16, 0, 15, 17]))],
                ["leave", number(), number()],
                ["hello", number(), "again"],
            ]
        )

    def _number(self) -> int:
        return self.chance.choice([0, 1, 2, 3, 5, 255, 2**16, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1])

    def _value(self) -> object:
        chance = self.chance
        return chance.choice(
            [
                self._number(), -1, -(2**63), 1.5, float("nan"), None, True, "", "x" * chance.choice([1, 63, 64, 5000]),
                b"", chance.randbytes(16), [], [[[[[]]]]], {}, {"a": 1}, list(range(chance.choice([1, 40, 400]))),
            ]
        )  # fmt: skip


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(20_000, id="some"),
        pytest.param(MESSAGES, id="million", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_no_message_stops_the_daemon_or_reaches_anothers_memory(tmp_path: Path, messages: int) -> None:
    with Daemon(tmp_path, "--capacity", "128M", "--extent", "1M") as daemon:
        flock = Flock(tmp_path, host=daemon.path)
        try:
            flock.add(2)
            flock.all("grow", mib=32)
            held = daemon.own_memory()
            fuzzer = Fuzzer(daemon.path, seed=messages)
            fuzzer.run(messages)
            assert fuzzer.thrown_out > 0, "nothing that was sent was malformed"
            flock.all("verify")  # not a byte of theirs has changed
            wait_for(lambda: daemon.host()["guests"] == 2, "the fuzzer's connections to end")
            listed = daemon.host()
            assert listed["leased_bytes"] == daemon.blocks()
            assert listed["counters"]["malformed"] > 0
            assert daemon.own_memory() < held + 32 * MIB
            flock.all("grow", mib=4)
            assert not [broken for told in flock.all("check") for broken in told["broken"]]
        finally:
            flock.end()


def test_a_reader_that_reads_nothing_holds_nobody_up(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--capacity", "64M", "--extent", "1M") as daemon:
        slow = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        slow.connect(str(daemon.path))
        slow.settimeout(0.2)
        slow.send(msgspec.msgpack.encode(["hello", 1, "slow"]))
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionError):
            for number in range(20_000):
                slow.send(msgspec.msgpack.encode(["lease", number, 9, 0, 1]))
        begin = time.monotonic()
        with RawGuest(daemon.path) as other:
            assert other.lease(1) == 1
        assert time.monotonic() - begin < 5
        slow.close()
        wait_for(lambda: daemon.host()["guests"] == 0, "both to be gone")


def test_what_another_guest_holds_cannot_be_claimed_given_back_or_guessed(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--capacity", "64M", "--extent", "1M") as daemon:
        with RawGuest(daemon.path) as owner, RawGuest(daemon.path) as thief:
            assert owner.lease(4) == 4
            (ids, fds) = owner.extents()
            os.pwrite(fds[0], b"mine", 0)
            # Its numbers: giving them back does not end them.
            with contextlib.suppress(ConnectionError, AssertionError):
                thief.give(ids)
            with RawGuest(daemon.path) as second, contextlib.suppress(ConnectionError, AssertionError):
                second.claim(ids, [os.dup(fd) for fd in fds])
            assert os.pread(fds[0], 4, 0) == b"mine"
            assert daemon.host()["leased_bytes"] == 4 * MIB
        with RawGuest(daemon.path) as guesser:
            for _ in range(200):
                assert guesser.join(os.urandom(16)) == "not-granted"
