# SPDX-License-Identifier: Apache-2.0
"""What one daemon leaves for the next: whose memory is whose, and how long it is kept for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.host.daemonthread import ThreadDaemon
from tests.hostguest import RawGuest
from tmem import wire
from tmem.daemon import state as states
from tmem.daemon.state import State
from tmem.ledger import start_time

MIB = 1 << 20
ME = (os.getpid(), start_time(os.getpid()) or 0)
KEY = (*ME, "raw")
OTHER = (1, start_time(1) or 0)
DEAD = (os.getpid(), 1)


def again(path: Path) -> State:
    state = State(str(path))
    state.open()
    return state


def test_what_was_held_is_known_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state = again(path)
    state.held(KEY, 10, 0, MIB)
    state.held(KEY, 11, 1, 2 * MIB)
    state.held((*DEAD, "raw"), 12, 0, MIB)
    state.ended(10)
    state.allow(KEY, "ab", allowed=True)
    state.allow(KEY, "cd", allowed=True)
    state.allow(KEY, "ab", allowed=False)
    state.set(KEY, {"weight": 5})
    state.close()
    assert path.stat().st_mode & 0o777 == 0o600
    state = again(path)
    assert (state.owner(10), state.owner(11), state.owner(12)) == (None, ME, None)
    assert (state.kind(11), state.unclaimed(), state.reserved(11)) == (1, 2 * MIB, 2 * MIB)
    assert (state.allowed(KEY), state.terms(KEY)) == ({"cd"}, {"weight": 5})
    state.end_reservations()
    assert (state.unclaimed(), state.reserved(11), state.owner(11)) == (0, 0, ME)  # still not another's
    state.claimed(11)
    assert state.owner(11) is None
    state.close()


def test_half_a_line_and_damage_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state = again(path)
    state.held(KEY, 10, 0, MIB)
    state.held(KEY, 11, 0, MIB)
    state.close()
    path.write_bytes(path.read_bytes()[:-3])
    state = again(path)
    assert (state.owner(10), state.owner(11)) == (ME, None)
    state.close()
    for damage in (b"", b"x\n", b"[1]\n", path.read_bytes().replace(b"[1,", b"[9,", 1), path.read_bytes() + b"[5]\n"):
        path.write_bytes(damage)
        again(path).close()
    path.chmod(0o666)  # anybody could have written it
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b'\n["allow",%d,%d,"raw","ab",true]\n' % ME)
    state = again(path)
    assert state.allowed(KEY) == set()
    state.close()
    path.unlink()
    path.mkdir()
    state = again(path)  # not even a file: guests claim without it
    state.held(KEY, 10, 0, MIB)
    state.close()


def test_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "_SLACK", 100)
    path = tmp_path / "state"
    state = again(path)
    for inode in range(20):
        state.held(KEY, inode, 0, MIB)
    for inode in range(1000, 3000):
        state.held(KEY, inode, 0, MIB)
        state.ended(inode)
    state.close()
    assert path.read_bytes().count(b"\n") < 300
    state = again(path)
    assert state.unclaimed() == 20 * MIB
    state.close()


def test_guests_rejoin_with_what_they_hold(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, capacity="16M") as daemon:
        guest = daemon.guest()
        assert guest.lease(6) == 6
        assert guest.lease(2, kind=1) == 2
        for number, fd in guest.held.items():
            os.pwrite(fd, b"%d" % number, 0)
        daemon.ask("set", guest="raw", weight=7)
        daemon.ask("freeze", guest="raw")
    before = dict(guest.held)
    assert all(os.pread(fd, 20, 0).startswith(b"%d" % number) for number, fd in before.items())
    with ThreadDaemon(tmp_path, capacity="16M") as daemon:
        assert daemon.ask("list")["host"]["reserved_bytes"] == 8 * MIB
        with daemon.guest("new") as new, daemon.guest() as back:
            assert new.lease(32) == 8  # what is kept for the other stays free for it
            assert daemon.ask("list", guest="raw")["guests"][0]["weight"] == 7
            ids, fds = list(before), list(before.values())
            kept = back.claim(ids[:6], fds[:6])
            kept += back.claim(ids[6:], fds[6:], kind=1)
            assert all(kept)
            assert not set(kept) & set(ids), "numbers never come twice"
            host = daemon.ask("list")["host"]
            assert (host["leased_bytes"], host["reserved_bytes"]) == (16 * MIB, 0)
            assert host["counters"]["claimed"] == 8
            assert all(os.pread(fd, 20, 0).startswith(b"%d" % number) for number, fd in before.items())
            back.give(kept[:1])
        daemon.wait_until(lambda: not daemon.host.ledger.taken)
    guest.held.clear()
    guest.close()


def test_what_is_not_claimed_in_time_is_lent_to_others(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, capacity="4M") as daemon:
        guest = daemon.guest()
        assert guest.lease(4) == 4
    held = dict(guest.held)
    with (
        ThreadDaemon(tmp_path, "[limits]\nclaim_seconds = 0.2\n", capacity="4M") as daemon,
        daemon.guest("new") as new,
        daemon.guest() as back,
    ):
        assert new.lease(1) == 0
        daemon.wait_until(lambda: not daemon.host.ledger.reserved)
        assert new.lease(4) == 4
        assert back.claim(list(held), list(held.values())) == [0] * 4  # there is no room for it any more
        assert [os.fstat(fd).st_blocks for fd in held.values()] == [MIB // 512] * 4  # and it is not taken
    guest.close()


def test_what_never_came_is_kept_only_until_its_guest_asks_for_more(tmp_path: Path) -> None:
    path = Path(f"{tmp_path / 'host.sock'}.state")
    state = again(path)
    state.held(KEY, 1, 0, 8 * MIB)  # granted as the daemon ended
    state.held((*ME, "other"), 2, 0, 4 * MIB)
    state.close()
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("raw") as back:
        assert daemon.ask("list")["host"]["reserved_bytes"] == 12 * MIB
        assert back.lease(1) == 1
        assert daemon.ask("list")["host"]["reserved_bytes"] == 4 * MIB
        with daemon.guest("other"):
            pass
        daemon.wait_until(lambda: not daemon.host.ledger.reserved)


def test_claims_of_what_is_not_ones_own_are_refused(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        owner = daemon.guest()
        assert owner.lease(2) == 2
        ids, fds = owner.extents()
        with daemon.guest() as thief:  # what is leased is leased once
            assert thief.claim(ids, fds) == [0, 0]
    path = Path(f"{daemon.path}.state")
    path.write_bytes(path.read_bytes().replace(b'["+",%d,%d' % ME, b'["+",%d,%d' % OTHER))
    with ThreadDaemon(tmp_path) as daemon, RawGuest(daemon.path, "thief") as thief:
        assert thief.claim(ids, fds) == [0, 0]  # the file says whose they are
        pipe = os.pipe()
        assert thief.claim([1, 2], pipe) == [0, 0]
        for fd in pipe:
            os.close(fd)
        assert daemon.ask("list")["host"]["counters"]["bad_claims"] == 4
        assert thief.claim([], []) == []
        assert [os.fstat(fd).st_blocks for fd in fds] == [MIB // 512] * 2
    owner.close()


def test_claims_without_a_file_keep_to_cap_and_kind(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        guest = daemon.guest()
        assert guest.lease(3) == 3
    ids, fds = guest.extents()
    Path(f"{daemon.path}.state").unlink()
    text = '[[guest]]\nname = "raw"\ncap = "2M"\n'
    with ThreadDaemon(tmp_path, text) as daemon, daemon.guest() as back:
        found: list[Any] = back.claim(ids, [os.dup(fd) for fd in fds])
        assert [bool(number) for number in found] == [True, True, False]
        assert back.claim(ids[2:], fds[2:], kind=2, pool=1) == [0]
        assert back.refused == "not-granted"
    guest.close()


def test_a_daemon_that_ends_takes_nothing_and_the_dead_ones_memory_goes(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        stays, goes = daemon.guest("stays"), daemon.guest("goes")
        assert stays.lease(1) == goes.lease(1) == 1
        assert stays.lease(1, kind=1) == 1
        copy = os.dup(next(iter(goes.held.values())))
        goes.close()
        daemon.wait_until(lambda: len(daemon.host.guests) == 1)
    assert os.fstat(copy).st_blocks == 0
    assert [os.fstat(fd).st_blocks for fd in stays.held.values()] == [MIB // 512] * 2
    with pytest.raises(ConnectionError):
        stays.answer(1)
    os.close(copy)
    stays.close()


def test_what_was_taken_back_on_a_full_disk_does_not_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    state = again(path)
    state.allow(KEY, "ab", allowed=True)
    state.held(KEY, 10, 0, MIB)
    monkeypatch.setattr(states, "_RETRY_SECONDS", 0.0)
    write, full = os.write, [True]

    def some(fd: int, data: bytes) -> int:
        return write(fd, data[:5] if full[0] else data)

    monkeypatch.setattr(os, "write", some)
    state.allow(KEY, "ab", allowed=False)
    assert not path.exists(), "it would say what is so no longer"
    state.ended(10)
    assert list(tmp_path.iterdir()) == []
    full[0] = False
    state.held(KEY, 11, 0, MIB)
    state.close()
    state.held(KEY, 12, 0, MIB)  # at the end nothing is written any more
    state = again(path)
    assert (state.allowed(KEY), state.owner(10), state.owner(11), state.owner(12)) == (set(), None, ME, None)
    state.close()


def test_guests_that_hold_more_than_the_next_capacity_keep_it_and_are_asked(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, capacity="16M") as daemon:
        guest = daemon.guest()
        assert guest.lease(12) == 12
    held = dict(guest.held)
    with ThreadDaemon(tmp_path, capacity="4M", extent="2M", policy_name="fixed") as daemon, daemon.guest() as back:
        assert all(back.claim(list(held), list(held.values())))
        assert daemon.ask("list")["host"]["leased_bytes"] == 12 * MIB
        assert daemon.call(daemon.host.check) == []
        assert back.lease(1) == 0
        assert back.wait_for(wire.Shrink).bytes >= 8 * MIB
    guest.held.clear()
    guest.close()


def test_guests_of_one_process_and_name_do_not_give_up_each_others_memory(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, capacity="8M") as daemon:
        first, second = daemon.guest(), daemon.guest()
        assert first.lease(4) == second.lease(4) == 4
    with ThreadDaemon(tmp_path, capacity="8M") as daemon, daemon.guest() as one, daemon.guest() as two:
        assert all(one.claim(*first.extents()))
        one.lease(1)
        assert all(two.claim(*second.extents()))
    for guest in (first, second):
        guest.held.clear()
        guest.close()
