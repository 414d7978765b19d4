# SPDX-License-Identifier: Apache-2.0
"""Shared pools as the host sees them: who may join, what each member is told, and what happens as one dies."""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

import pytest

from tests.host.daemonthread import ThreadDaemon
from tests.hostguest import RawGuest
from tmem import wire

MIB = 1 << 20
SECRET = bytes(range(16))
DATA, INDEX = 2, 3


def granted(daemon: ThreadDaemon, name: str, secret: bytes = SECRET) -> RawGuest:
    """Return a guest that was granted the pool and has joined it."""
    guest = daemon.guest(name)
    daemon.ask("shared-auth", guest=name, secret=secret.hex(), allow=True)
    assert guest.join(secret) == ""
    return guest


def board(guest: RawGuest) -> tuple[int, ...]:
    return struct.unpack("<19Q", os.pread(guest.board, 19 * 8, 0))


def test_a_pool_is_joined_by_secret_and_grant(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("one") as one, daemon.guest("two") as two:
        assert one.join(SECRET) == "not-granted"
        daemon.ask("shared-auth", guest="one", secret=SECRET.hex(), allow=True)
        assert one.join(bytes(16)) == "not-granted"
        assert one.join(SECRET) == ""
        assert one.join(SECRET) == ""  # a member already: the same seat
        assert two.join(SECRET) == "not-granted"  # the secret alone is nothing
        host = daemon.ask("list")
        assert [(pool["members"], pool["bytes"]) for pool in host["pools"]] == [([1], 0)]
        assert host["host"]["counters"]["refused"]["not-granted"] == 3
        daemon.ask("shared-auth", guest="two", secret=SECRET.hex(), allow=True)
        assert two.join(SECRET) == ""
        assert (one.pool, one.member, two.pool, two.member) == (1, 0, 1, 1)
        assert one.lease(1, kind=DATA, pool=1) == 1
        seq = one.next_seq()
        one.send(wire.Leave(seq, 1))
        assert one.answer(seq)[0] == wire.Done(seq)
        assert (one.lease(1, kind=DATA, pool=1), one.refused) == (0, "not-granted")
        assert daemon.ask("list")["host"]["leased_bytes"] == 0


def test_the_board_is_the_hosts_to_write(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        before = time.monotonic_ns()
        with granted(daemon, "one") as one:
            magic, floor, members, *generations = board(one)
            assert magic == 0x746D656D626F6172
            assert before < floor < time.monotonic_ns()
            assert members == 1
            assert generations == [1] + [0] * 15
            assert os.fstat(one.board).st_size == mmap.PAGESIZE
            mmap.mmap(one.board, mmap.PAGESIZE, prot=mmap.PROT_READ).close()
            for flags in (os.O_RDONLY, os.O_RDWR):  # also opened anew by who may do that
                with os.fdopen(os.open(f"/proc/self/fd/{one.board}", flags)) as file:
                    with pytest.raises(OSError, match=r"Bad file|not permitted|denied"):
                        os.pwrite(file.fileno(), b"x", 0)
                    with pytest.raises(PermissionError):
                        mmap.mmap(file.fileno(), mmap.PAGESIZE)
            with granted(daemon, "two"):
                assert board(one)[2:5] == (0b11, 1, 2)
            daemon.wait_until(lambda: len(daemon.host.guests) == 1)
            assert board(one)[2:5] == (0b01, 1, 0)


def test_members_read_one_anothers_extents_and_cannot_write_them(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, granted(daemon, "one") as one:
        assert one.lease(1, kind=INDEX, pool=one.pool) == 1
        assert one.lease(2, kind=DATA, pool=one.pool) == 2
        for number, fd in one.held.items():
            os.pwrite(fd, b"of one %d" % number, 0)
        assert one.lease(1, kind=1) == 1  # private: nobody is told
        with granted(daemon, "two") as two:
            told = [two.wait_for(wire.Member)]
            assert (told[0].member, sorted(told[0].kinds)) == (0, [DATA, DATA, INDEX])
            assert sorted(told[0].ids) == list(one.held)[:3]
            for number, fd in two.others.items():
                assert os.pread(fd, 20, 0).startswith(b"of one %d" % number)
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.pwrite(fd, b"x", 0)
            assert two.lease(1, kind=DATA, pool=two.pool) == 1
            news = one.wait_for(wire.Member)
            assert (news.member, news.ids, news.kinds) == (1, list(two.held), [DATA])
            assert one.lease(1, kind=DATA, pool=one.pool) == 1
            assert two.wait_for(wire.Member).ids == [list(one.held)[-1]]  # only what is new


def test_a_members_death_is_on_the_board_before_its_memory_goes(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, granted(daemon, "one") as one:
        two = granted(daemon, "two")
        assert two.lease(1, kind=INDEX, pool=two.pool) == 1
        one.wait_for(wire.Member)
        floor = board(one)[1]
        two.close()
        assert one.wait_for(wire.Gone) == wire.Gone(one.pool, 1)
        assert board(one)[1] > floor
        assert board(one)[2] == 1
        daemon.wait_until(lambda: not daemon.host.ledger.taken)
        assert [os.pread(fd, 1, 0) for fd in one.others.values()] == [b""]
        with granted(daemon, "three") as three:
            assert (three.member, board(one)[4]) == (1, 3)  # the seat again, another life


def test_an_index_that_is_taken_back_takes_all_older_pages_along(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, granted(daemon, "one") as one, granted(daemon, "two") as two:
        assert two.lease(1, kind=DATA, pool=two.pool) == 1
        assert two.lease(1, kind=INDEX, pool=two.pool) == 1
        one.listen(0.05)
        floor = board(one)[1]
        flow, host = daemon.daemon.server.flow, daemon.host

        def take(count: int) -> None:
            flow.revoke(host.guests[2], host.ledger.oldest(2, count))

        data, index = two.held
        daemon.call(lambda: take(1))
        assert two.wait_for(wire.Revoked).ids == one.wait_for(wire.Revoked).ids == [data]
        assert board(one)[1] == floor  # the index still knows the newest, and misses
        before = time.monotonic_ns()
        daemon.call(lambda: take(1))
        assert two.wait_for(wire.Revoked).ids == one.wait_for(wire.Revoked).ids == [index]
        assert board(one)[1] > before


def test_a_grant_that_is_taken_back_ends_the_membership(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, granted(daemon, "one") as one:
        assert one.lease(1, kind=DATA, pool=one.pool) == 1
        number = next(iter(one.held))
        daemon.ask("shared-auth", guest="one", secret=SECRET.hex(), allow=False)
        assert one.wait_for(wire.Revoked).ids == [number]
        assert one.join(SECRET) == "not-granted"
        assert daemon.ask("list")["pools"] == []


def test_a_pool_has_sixteen_seats_and_a_host_so_many_pools(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, "[limits]\npools = 1\n") as daemon:
        members = [granted(daemon, f"guest {number}") for number in range(16)]
        assert board(members[0])[2] == 0xFFFF
        with daemon.guest("late") as late:
            for secret in (SECRET, bytes(16)):
                daemon.ask("shared-auth", guest="late", secret=secret.hex(), allow=True)
                assert late.join(secret) == "quota"
            members.pop().close()
            daemon.wait_until(lambda: len(daemon.host.guests) == 16)
            assert late.join(SECRET) == ""
            assert late.member == 15
        for member in members:
            member.close()


def test_a_member_that_reads_nothing_is_told_all_of_it_later(tmp_path: Path) -> None:
    with (
        ThreadDaemon(tmp_path, capacity="512M") as daemon,
        granted(daemon, "sleeper") as sleeper,
        granted(daemon, "busy") as busy,
    ):
        for _ in range(600):
            assert busy.lease(1, kind=DATA, pool=busy.pool) == 1
            busy.give([next(iter(busy.held))])
        assert busy.lease(3, kind=DATA, pool=busy.pool) == 3
        waiting = daemon.call(lambda: daemon.host.guests[1].link.waiting)
        assert waiting <= 64
        sleeper.listen(0.5)
        live = {number for number, fd in sleeper.others.items() if os.fstat(fd).st_blocks}
        assert live == set(busy.held)
        assert len(sleeper.others) < 20


def test_a_grant_outlives_a_connection_and_a_daemon(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        guest = granted(daemon, "one")
        assert guest.lease(1, kind=DATA, pool=guest.pool) == 1
        held = dict(guest.held)
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("one") as back, granted(daemon, "two") as other:
        assert back.join(SECRET) == ""
        assert all(back.claim(list(held), list(held.values()), kind=DATA, pool=back.pool))
        assert other.wait_for(wire.Member).ids == list(back.held)
        with daemon.guest("another name") as another:
            assert another.join(SECRET) == "not-granted"
    guest.held.clear()
    guest.close()
