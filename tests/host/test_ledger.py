# SPDX-License-Identifier: Apache-2.0
"""The ledger against a plain dict, with real memfds: sums, room, and what the kernel counts."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tmem.daemon import extent
from tmem.daemon.extent import MEBIBYTE, Extent, ExtentError, NoRoomError
from tmem.daemon.ledger import Ledger

CAPACITY = 24 * MEBIBYTE


class LedgerMachine(RuleBasedStateMachine):
    """Any order of leasing, giving, dying and emptying. The model: extent -> (guest, kind), and what still waits."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(CAPACITY, first=100)
        self.model: dict[int, tuple[int, int]] = {}
        self.waiting: list[int] = []
        self.guests: set[int] = set()
        self.copies: dict[int, int] = {}  # descriptors as a guest has them

    @initialize()
    def first(self) -> None:
        self.open(1)

    @rule(guest=st.integers(1, 4))
    def open(self, guest: int) -> None:
        if guest not in self.guests:
            self.ledger.open(guest)
            self.guests.add(guest)

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), kind=st.integers(0, 3), size=st.sampled_from([1, 1, 2]))
    def lease(self, data: Any, kind: int, size: int) -> None:
        guest = data.draw(st.sampled_from(sorted(self.guests)))
        if self.ledger.free < size * MEBIBYTE:
            return
        self.ledger.make_room(size * MEBIBYTE)
        one = extent.make(size * MEBIBYTE, kind)
        assert not self.ledger.knows(one.inode)
        number = self.ledger.add(one, guest)
        assert number not in self.model
        self.model[number] = (guest, kind)
        self.copies[number] = os.dup(one.fd)
        os.pwrite(one.fd, b"x" * 4096, 0)
        self.waiting = [one.id for one in self.ledger.ending]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        one = self.ledger.get(number)
        assert one is not None
        self.ledger.end(one)
        del self.model[number]
        assert os.fstat(self.copies[number]).st_blocks == 0  # at once, whoever else has it

    @precondition(lambda self: self.guests)
    @rule(data=st.data())
    def die(self, data: Any) -> None:
        guest = data.draw(st.sampled_from(sorted(self.guests)))
        gone = {one.id for one in self.ledger.close(guest)}
        assert gone == {number for number, (holder, _) in self.model.items() if holder == guest}
        self.guests.remove(guest)
        self.model = {number: one for number, one in self.model.items() if number not in gone}
        self.waiting += sorted(gone)

    @rule(most=st.integers(1, 3))
    def empty(self, most: int) -> None:
        more = self.ledger.end_some(most)
        self.waiting = self.waiting[most:]
        assert more == bool(self.waiting)

    @precondition(lambda self: self.guests)
    @rule(data=st.data(), count=st.integers(0, 5))
    def oldest(self, data: Any, count: int) -> None:
        guest = data.draw(st.sampled_from(sorted(self.guests)))
        order = sorted((kind, number) for number, (holder, kind) in self.model.items() if holder == guest and kind)
        assert [one.id for one in self.ledger.oldest(guest, count)] == [number for _, number in order[:count]]

    @invariant()
    def adds_up(self) -> None:
        assert self.ledger.check() == []
        assert len(self.ledger) == len(self.model)
        assert self.ledger.blocks() == self.ledger.taken <= CAPACITY
        sizes = {number: one.bytes for number in self.model if (one := self.ledger.get(number))}
        assert self.ledger.leased == sum(sizes.values())
        assert self.ledger.free == CAPACITY - self.ledger.leased
        for guest in self.guests:
            holding = self.ledger.of(guest)
            for kind in range(4):
                mine = [n for n, (holder, k) in self.model.items() if (holder, k) == (guest, kind)]
                assert list(holding.kinds[kind]) == mine
                assert holding.bytes[kind] == sum(sizes[number] for number in mine)

    def teardown(self) -> None:
        for guest in self.guests:
            self.ledger.close(guest)
        self.ledger.let_go()
        for number, fd in self.copies.items():
            assert os.fstat(fd).st_blocks == 0, number
            os.close(fd)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


def test_an_extent_is_there_sealed_and_can_be_taken_back() -> None:
    one = extent.make(2 * MEBIBYTE, 1)
    assert extent.taken_bytes(one.fd) == 2 * MEBIBYTE  # before anybody has written to it
    seals = fcntl.fcntl(one.fd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_GROW
    assert seals & fcntl.F_SEAL_SEAL
    assert not seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    assert os.fstat(one.fd).st_mode & 0o777 == 0o600
    assert os.get_inheritable(one.fd) is False
    assert extent.inspect(one.fd, 64 * MEBIBYTE) == (one.inode, 2 * MEBIBYTE)
    reader, copy = extent.reopen_read_only(one.fd), os.dup(one.fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(reader, b"x", 0)
    one.end()
    assert os.pread(reader, 4096, 0) == b""
    with pytest.raises(PermissionError):
        os.ftruncate(copy, MEBIBYTE)  # it does not grow again
    with pytest.raises(PermissionError):
        os.pwrite(copy, b"x", 0)
    os.close(reader)
    os.close(copy)
    one.end()  # a second time does nothing


def test_a_descriptor_that_is_no_extent_is_told_from_one() -> None:
    def memfd(name: str, size: int, seals: int) -> int:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return fd

    right = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    good = memfd("tmem-extent", MEBIBYTE, right)
    assert extent.inspect(good, MEBIBYTE)[1] == MEBIBYTE
    bad = {
        "another name": memfd("other", MEBIBYTE, right),
        "not sealed": memfd("tmem-extent", MEBIBYTE, 0),
        "may grow": memfd("tmem-extent", MEBIBYTE, fcntl.F_SEAL_SEAL),
        "cannot be taken back": memfd("tmem-extent", MEBIBYTE, right | fcntl.F_SEAL_SHRINK),
        "cannot be written": memfd("tmem-extent", MEBIBYTE, right | fcntl.F_SEAL_WRITE),
        "empty": memfd("tmem-extent", 0, right),
        "no whole MiB": memfd("tmem-extent", MEBIBYTE + 4096, right),
        "too large": memfd("tmem-extent", 2 * MEBIBYTE, right),
        "read-only": extent.reopen_read_only(good),
        "a directory": os.open("/", os.O_RDONLY),
        "a device": os.open("/dev/null", os.O_RDWR),
        "a socket": socket.socket(socket.AF_UNIX).detach(),
    }
    for fd in bad.values():
        with pytest.raises(ExtentError):
            extent.inspect(fd, MEBIBYTE)
        os.close(fd)
    os.close(good)


def test_no_room_is_told_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoRoomError):
        extent.make(MEBIBYTE, 0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_ledger_that_is_wrong_says_so() -> None:
    ledger = Ledger(4 * MEBIBYTE)
    ledger.open(1)
    one: Extent = extent.make(MEBIBYTE, 0)
    ledger.add(one, 1)
    ledger.taken += 1
    one.guest = 2
    assert len(ledger.check()) == 2
    one.guest = 1
    ledger.close(1)
    ledger.let_go()
