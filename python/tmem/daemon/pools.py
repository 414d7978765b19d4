# SPDX-License-Identifier: Apache-2.0
"""Shared pools: who is a member, which memory of others a member may read, and the board that all of them read.

Owns: members, boards, and the telling of read-only descriptors. Called by flow, server and admin. Calls extent, state.
Each member writes its own extents and reads those of others, so that one that dies in the middle of something harms
nobody. The board is a page that only this host writes.
Law: a pool is joined by a secret and a grant (law 9). Before memory with an index goes, the floor rises above all that
was ever in it: an older page of another member must not come to light again (law 4).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Iterable, Mapping
from typing import Final

from tmem.daemon import extent
from tmem.daemon.extent import SHARED_DATA, SHARED_INDEX, Extent
from tmem.daemon.guest import Guest
from tmem.daemon.host import Host
from tmem.wire import MOST_FDS, Gone, Joined, Member, Revoked, pack

__all__ = ["MOST_MEMBERS", "Board", "PoolFull", "Pools", "SharedPool", "digest_of"]

MOST_MEMBERS: Final = 16
_MAGIC: Final = 0x746D656D626F6172
_FLOOR, _BITMAP, _GENERATIONS = 1, 2, 3
_AHEAD_NS: Final = 10_000_000
_MOST_STALE: Final = 4096  # for a member that does not listen: it keeps descriptors of what is empty
_PAGE: Final = mmap.PAGESIZE


class PoolFull(Exception):  # noqa: N818 - says what is the matter, not that something is wrong
    """The pool has all the members it can have, or the host all the pools."""


class Board:
    """The page of a pool. Each number is written whole, so that a reader never sees half of one."""

    def __init__(self) -> None:
        self.fd = extent.board(_PAGE)
        try:
            self._map = mmap.mmap(self.fd, _PAGE)
            extent.seal_board(self.fd)
            self.reader = extent.reopen_read_only(self.fd)
        except OSError:
            os.close(self.fd)
            raise
        self._words = memoryview(self._map).cast("Q")
        self.raise_floor()
        self._words[0] = _MAGIC

    def raise_floor(self, ahead_ns: int = 0) -> None:
        """Let all pages that were put until now be gone, and those of the next `ahead_ns`."""
        self._words[_FLOOR] = max(self._words[_FLOOR], time.monotonic_ns() + ahead_ns)

    def enter(self, member: int, generation: int) -> None:
        """Enter a member."""
        self._words[_GENERATIONS + member] = generation
        self._words[_BITMAP] |= 1 << member

    def strike(self, member: int) -> None:
        """Strike a member out: nothing of it is to be read any more."""
        self._words[_BITMAP] &= ~(1 << member)
        self._words[_GENERATIONS + member] = 0

    def close(self) -> None:
        """Let go of it; members keep their mappings."""
        self._words.release()
        self._map.close()
        os.close(self.fd)
        os.close(self.reader)


class _Seat:
    """A member: its guest, which of its lives this is, and how far it knows the extents of each other member."""

    __slots__ = ("generation", "guest", "knows", "stale")

    def __init__(self, guest: Guest, generation: int) -> None:
        self.guest, self.generation = guest, generation
        self.knows: dict[int, tuple[int, int]] = {}  # member -> its generation, its last extent that was told
        self.stale: list[int] = []  # extents of others that are gone, and it was not told


class SharedPool:
    """One shared pool, while it has a member."""

    def __init__(self, number: int, digest: str) -> None:
        self.id, self.digest = number, digest
        self.board = Board()
        self.seats: dict[int, _Seat] = {}
        self.behind: set[int] = set()  # members that were not told all, and nothing of theirs waits
        self._generation = 0

    def sit(self, guest: Guest) -> int:
        """Give a guest a seat. PoolFull where there is none left."""
        member = next((n for n in range(MOST_MEMBERS) if n not in self.seats), None)
        if member is None:
            raise PoolFull
        self._generation += 1
        self.seats[member] = _Seat(guest, self._generation)
        self.board.enter(member, self._generation)
        return member

    def tell(self, member: int) -> None:
        """Tell a member what it does not know yet of the others, as far as it listens; the rest when it does."""
        seat = self.seats[member]
        link = seat.guest.link
        for other in list(seat.knows):
            now = self.seats.get(other)
            if now is None or now.generation != seat.knows[other][0]:
                if link.congested:
                    return
                link.send(pack(Gone(self.id, other)))
                del seat.knows[other]
        while seat.stale and not link.congested:
            some, seat.stale = seat.stale[:MOST_FDS], seat.stale[MOST_FDS:]
            link.send(pack(Revoked(some)))
        try:
            for other, theirs in self.seats.items():
                if other != member:
                    self._tell_of(seat, other, theirs)
        except OSError:  # no descriptors: at the next tick
            self.behind.add(member)

    def tell_behind(self) -> None:
        """Tell those whom there were no descriptors for."""
        behind, self.behind = self.behind, set()
        for member in behind & self.seats.keys():
            self.tell(member)

    def _tell_of(self, seat: _Seat, other: int, theirs: _Seat) -> None:
        last = seat.knows.get(other, (theirs.generation, 0))[1]
        fresh = [one for one in self._extents(theirs.guest) if one.id > last]
        fresh.sort(key=lambda one: one.id)
        for begin in range(0, len(fresh), MOST_FDS):
            if seat.guest.link.waiting:
                return
            some = fresh[begin : begin + MOST_FDS]
            _send_read_only(seat.guest, Member(self.id, other, [o.id for o in some], [o.kind for o in some]), some)
            seat.knows[other] = (theirs.generation, some[-1].id)

    def _extents(self, guest: Guest) -> list[Extent]:
        kinds = guest.holding.kinds
        return [one for kind in (SHARED_DATA, SHARED_INDEX) for one in kinds[kind].values() if one.pool == self.id]

    def forget(self, extents: Iterable[Extent], owner: int) -> None:
        """Let members that know extents let go of their descriptors: what they hold is empty."""
        for member, seat in self.seats.items():
            if member != owner:
                told = [one.id for one in extents if one.id <= seat.knows.get(owner, (0, 0))[1]]
                seat.stale = (seat.stale + told)[-_MOST_STALE:]
                self.tell(member)

    def row(self) -> dict[str, object]:
        """Return what an operator is told."""
        held = [one for seat in self.seats.values() for one in self._extents(seat.guest)]
        return {
            "id": self.id,
            "members": [seat.guest.id for seat in self.seats.values()],
            "extents": len(held),
            "bytes": sum(one.bytes for one in held),
        }

    def check(self, guests: Mapping[int, Guest]) -> list[str]:
        """Return what is wrong with it, in words."""
        return [
            f"pool {self.id}: member {member} is not the guest that says so"
            for member, seat in self.seats.items()
            if guests.get(seat.guest.id) is not seat.guest or seat.guest.memberships.get(self.id) != member
        ]


class Pools:
    """All shared pools of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_digest: dict[str, SharedPool] = {}
        self._next = 1

    def join(self, guest: Guest, secret: bytes) -> SharedPool | None:
        """Make a guest a member; None where it was not granted. PoolFull where there is no room for it."""
        digest = digest_of(secret)
        if digest not in guest.grants:
            return None
        pool = self._by_digest.get(digest)
        if pool is not None and pool.id in guest.memberships:
            return pool
        if pool is None:
            if len(self._by_digest) >= self._host.config.limits.pools:
                raise PoolFull
            pool = SharedPool(self._next, digest)
            self._next += 1
            self._by_digest[digest] = self._host.pools[pool.id] = pool
        guest.memberships[pool.id] = pool.sit(guest)
        return pool

    def welcome(self, guest: Guest, pool: SharedPool, seq: int) -> None:
        """Tell a new member its number, and of the others."""
        member = guest.memberships[pool.id]
        guest.link.send(pack(Joined(seq, pool.id, member)), [pool.board.reader])
        pool.tell(member)

    def leave(self, guest: Guest, number: int) -> list[Extent]:
        """End a membership; return the extents that are to be ended now. They are nobody's to read already."""
        pool = self._host.pools[number]
        held = [one for one in guest.holding.extents() if one.pool == number]
        member = guest.memberships.pop(number)
        pool.board.raise_floor()
        pool.board.strike(member)
        del pool.seats[member]
        for other in pool.seats:
            pool.tell(other)
        if not pool.seats:
            pool.board.close()
            del self._host.pools[number], self._by_digest[pool.digest]
        return held

    def tell_others(self, number: int, guest: Guest) -> None:
        """Tell the others what is new of a member."""
        pool = self._host.pools[number]
        for member, seat in pool.seats.items():
            if seat.guest is not guest:
                pool.tell(member)

    def drained(self, guest: Guest) -> None:
        """Tell a member that listens again what could wait."""
        for number, member in guest.memberships.items():
            self._host.pools[number].tell(member)

    def before_end(self, extents: Iterable[Extent]) -> None:
        """Extents will be emptied now: what an index says, or said of older pages elsewhere, must not be read again."""
        for pool in self._of(extents, SHARED_INDEX):
            pool.board.raise_floor(_AHEAD_NS)  # their owner may still write until they are gone

    def after_end(self, extents: list[Extent]) -> None:
        """They are empty."""
        for pool in self._of(extents, SHARED_INDEX):
            pool.board.raise_floor()
        for pool in self._of(extents, SHARED_DATA) | self._of(extents, SHARED_INDEX):
            mine = [one for one in extents if one.pool == pool.id]
            guest = self._host.guests.get(mine[0].guest)
            if guest is not None and pool.id in guest.memberships:
                pool.forget(mine, guest.memberships[pool.id])

    def _of(self, extents: Iterable[Extent], kind: int) -> set[SharedPool]:
        numbers = {one.pool for one in extents if one.pool and one.kind == kind}
        return {pool for number in numbers if (pool := self._host.pools.get(number)) is not None}


def digest_of(secret: bytes) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(b"tmem shared pool" + secret).hexdigest()


def _send_read_only(guest: Guest, message: Member, extents: list[Extent]) -> None:
    fds: list[int] = []
    try:
        fds += [extent.reopen_read_only(one.fd) for one in extents]
        guest.link.send(pack(message), fds)
    finally:
        for fd in fds:
            os.close(fd)
