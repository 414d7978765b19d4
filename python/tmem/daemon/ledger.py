# SPDX-License-Identifier: Apache-2.0
"""The ledger: which guest holds which extent, to the byte.

Owns: every extent of the host, from the moment it is made to the moment it is empty. Called by flow, pools and rows.
Calls extent. Extents of the dead wait here to be emptied, a few at a time, and count until they are.
Law: what is taken never passes the capacity, and every sum is that of the extents (law 11). `check` walks them all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from tmem.daemon import extent
from tmem.daemon.extent import Extent

__all__ = ["Holding", "Ledger"]


class Holding:
    """What one guest holds: the extents of each kind, oldest first, and their bytes."""

    __slots__ = ("bytes", "kinds")

    def __init__(self) -> None:
        self.kinds: tuple[dict[int, Extent], ...] = ({}, {}, {}, {})
        self.bytes = [0, 0, 0, 0]

    @property
    def count(self) -> int:
        """How many extents there are."""
        return sum(map(len, self.kinds))

    @property
    def ephemeral_bytes(self) -> int:
        """Bytes that can be taken back at once, shared ones included."""
        return self.bytes[1] + self.bytes[2] + self.bytes[3]

    def extents(self) -> list[Extent]:
        """Return all of them."""
        return [one for kind in self.kinds for one in kind.values()]


class Ledger:
    """Extents of one host. `capacity` is bytes; `first` is the first number given, above all that ever were."""

    def __init__(self, capacity: int, first: int = 1) -> None:
        self.capacity = capacity
        self._ceiling = capacity  # what was taken when the capacity was made smaller, if that was more
        self.taken = 0  # bytes of all extents, those that wait to be emptied included
        self.reserved = 0  # bytes kept for guests of the last daemon that have not claimed them yet
        self.ending: deque[Extent] = deque()
        self._ending_bytes = 0
        self._next = first
        self._extents: dict[int, Extent] = {}
        self._inodes: dict[int, int] = {}
        self._holdings: dict[int, Holding] = {}

    @property
    def free(self) -> int:
        """Bytes that may be leased now; those that only wait to be emptied count as free, they are emptied first."""
        return max(0, self.capacity - self.taken - self.reserved + self._ending_bytes)

    @property
    def leased(self) -> int:
        """Bytes that guests hold."""
        return self.taken - self._ending_bytes

    def __len__(self) -> int:
        return len(self._extents)

    def resize(self, capacity: int) -> None:
        """Change the capacity. What is taken beyond a smaller one stays until it is given or taken back."""
        self.capacity, self._ceiling = capacity, max(capacity, self.taken)

    def took_over(self) -> None:
        """Let what was claimed count, also where the last host had more to lease than this one."""
        self._ceiling = max(self._ceiling, self.taken)

    @property
    def over(self) -> int:
        """Bytes that guests hold beyond the capacity, after it was made smaller."""
        return max(0, self.leased - self.capacity)

    @property
    def entries(self) -> int:
        """How many extents there are, those that wait to be emptied included."""
        return len(self._extents) + len(self.ending)

    def open(self, guest: int) -> Holding:
        """Begin the account of a guest."""
        return self._holdings.setdefault(guest, Holding())

    def close(self, guest: int) -> list[Extent]:
        """End the account of a guest. Its extents wait to be emptied; they are returned."""
        holding = self._holdings.pop(guest, None)
        gone = [] if holding is None else holding.extents()
        for one in gone:
            self._forget(one)
        self.ending.extend(gone)
        self._ending_bytes += sum(one.bytes for one in gone)
        return gone

    def of(self, guest: int) -> Holding:
        """Return what a guest holds. KeyError where it has no account."""
        return self._holdings[guest]

    def get(self, number: int) -> Extent | None:
        """Return the extent with this number, while it is leased."""
        return self._extents.get(number)

    def knows(self, inode: int) -> bool:
        """Whether this memory is in the ledger already."""
        return inode in self._inodes

    def add(self, one: Extent, guest: int, pool: int = 0) -> int:
        """Enter an extent as held by a guest and return its number."""
        one.id, one.guest, one.pool = self._next, guest, pool
        self._next += 1
        holding = self._holdings[guest]
        holding.kinds[one.kind][one.id] = one
        holding.bytes[one.kind] += one.bytes
        self._extents[one.id] = one
        self._inodes[one.inode] = one.id
        self.taken += one.bytes
        return one.id

    def end(self, one: Extent) -> None:
        """Empty a leased extent at once, and take it out."""
        holding = self._holdings[one.guest]
        del holding.kinds[one.kind][one.id]
        holding.bytes[one.kind] -= one.bytes
        self._forget(one)
        one.end()
        self.taken -= one.bytes

    def end_some(self, most: int) -> bool:
        """Empty at most so many extents that wait for it; return whether more wait."""
        while self.ending and most > 0:
            one = self.ending.popleft()
            one.end()
            self._ending_bytes -= one.bytes
            self.taken -= one.bytes
            most -= 1
        return bool(self.ending)

    def make_room(self, size: int) -> None:
        """Empty what waits for it until `size` bytes are really there, or nothing waits any more."""
        while self.ending and self.capacity - self.taken - self.reserved < size:
            self.end_some(1)

    def oldest(self, guest: int, count: int) -> list[Extent]:
        """Return up to `count` extents of a guest that may be taken back: private ones first, the oldest first."""
        kinds = self._holdings[guest].kinds
        found: list[Extent] = []
        for kind in (extent.EPHEMERAL, extent.SHARED_DATA, extent.SHARED_INDEX):
            for one in kinds[kind].values():
                if len(found) == count:
                    return found
                found.append(one)
        return found

    def let_go(self) -> None:
        """Close everything and empty nothing but what was the dead's: guests keep what they hold."""
        self.end_some(len(self.ending))
        for one in self._extents.values():
            one.let_go()

    def freeable(self) -> int:
        """Bytes that could be taken back at once."""
        return sum(holding.ephemeral_bytes for holding in self._holdings.values())

    def check(self) -> list[str]:
        """Walk everything and return what does not add up, in words; an empty list when all is sound."""
        broken = [] if self.taken <= self._ceiling else [f"{self.taken} bytes are taken of {self._ceiling}"]
        seen = 0
        for guest, holding in self._holdings.items():
            for kind, extents in enumerate(holding.kinds):
                if sum(one.bytes for one in extents.values()) != holding.bytes[kind]:
                    broken.append(f"guest {guest}: the sum of kind {kind} is not that of its extents")
                broken += [f"extent {one.id} has the wrong holder" for one in extents.values() if one.guest != guest]
                seen += len(extents)
        if seen != len(self._extents) or seen != len(self._inodes):
            broken.append(f"guests hold {seen} extents, {len(self._extents)} are entered")
        known = [*self._extents.values(), *self.ending]
        if sum(one.bytes for one in known) != self.taken:
            broken.append("what is taken is not the sum of the extents")
        return broken + self._check_blocks(known)

    @staticmethod
    def _check_blocks(known: Iterable[Extent]) -> list[str]:
        """Compare with the kernel's count: never more than the ledger has; less is a guest that cut its own off."""
        return [
            f"extent {one.id} takes {taken} bytes, the ledger has {one.bytes}"
            for one in known
            if (taken := extent.taken_bytes(one.fd)) > one.bytes
        ]

    def blocks(self) -> int:
        """Return what all extents take, as the kernel counts it."""
        return sum(extent.taken_bytes(one.fd) for one in [*self._extents.values(), *self.ending])

    def _forget(self, one: Extent) -> None:
        del self._extents[one.id]
        del self._inodes[one.inode]
