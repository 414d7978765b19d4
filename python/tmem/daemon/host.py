# SPDX-License-Identifier: Apache-2.0
"""What the daemon has: its ledger, its guests, its pools, its policy and its counters.

Owns: these, and what a policy sees of them. Called by flow, pools, admin, server, rows. Calls nothing that sends.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tmem import policies
from tmem.daemon.config import Config
from tmem.daemon.guest import Guest
from tmem.daemon.ledger import Ledger
from tmem.daemon.room import Room
from tmem.daemon.state import State
from tmem.policies import HostView, Policy

if TYPE_CHECKING:
    from tmem.daemon.pools import SharedPool

__all__ = ["Host"]

_PRESSURE: Final = Path("/proc/pressure/memory")
_OTHER_DESCRIPTORS: Final = 256
_PER_CENT: Final = 100.0


class Host:
    """The host that guests are guests of. `policy` is for tests; otherwise the configuration names it."""

    def __init__(self, config: Config, state: State | None = None, policy: Policy | None = None) -> None:
        self.config = config
        self.state = state or State(None)
        self.policy = policy or policies.get(config.policy)
        self.unit = config.extent_bytes
        self.user_bytes = config.user_bytes
        # Numbers of extents go on where the last daemon's ended, without a file: it gave less than one a microsecond.
        self.ledger = Ledger(config.capacity_bytes, first=time.monotonic_ns() // 1000 + 1)
        self.left = Room()
        self.guests: dict[int, Guest] = {}
        self.pools: dict[int, SharedPool] = {}
        self.counters: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.pressure = 0.0
        self.since = time.time()
        self._next_guest = 1

    @staticmethod
    def now() -> float:
        """Return the clock of everything here, which nobody sets."""
        return time.monotonic()

    def number(self) -> int:
        """Return the number of the next guest."""
        number = self._next_guest
        self._next_guest += 1
        return number

    def view(self) -> HostView:
        """Return the host as a policy sees it, in extents."""
        now, unit = self.now(), self.unit
        return HostView(
            capacity=self.ledger.capacity // unit,
            free=self.ledger.free // unit,
            guests=tuple(guest.view(unit, now) for guest in self.guests.values()),
            now=now,
            extent_bytes=unit,
            pressure=self.pressure,
        )

    def room(self, guest: Guest) -> tuple[int, str]:
        """Return how many bytes more a guest may hold by what no policy decides, and what it runs into there."""
        held = guest.holding.bytes
        mine = sum(held)
        limits = [((self.config.limits.extents_per_guest - guest.holding.count) * self.unit, "quota")]
        if self.user_bytes < self.ledger.capacity:  # else the capacity is met first
            limits.append((self.user_bytes - self.held_by_user(guest.peer.uid), "quota"))
        limits.append(((self.most_extents - self.ledger.entries) * self.unit, "host-full"))
        if guest.cap is not None:
            limits.append((guest.cap - mine, "over-cap"))
        return min(limits)

    @property
    def most_extents(self) -> int:
        """How many extents this process has descriptors for, with room for connections and for what guests claim."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return soft - _OTHER_DESCRIPTORS - 2 * len(self.guests)

    def most(self, guest: Guest) -> int:
        """Return what a guest may hold at most, whatever others do."""
        limits = self.config.limits
        most = min(self.ledger.capacity, self.user_bytes, limits.extents_per_guest * self.unit)
        return most if guest.cap is None else min(most, guest.cap)

    def held_by_user(self, uid: int) -> int:
        """Return the bytes that all guests of a user hold."""
        return sum(sum(guest.holding.bytes) for guest in self.guests.values() if guest.peer.uid == uid)

    def reload(self, config: Config) -> None:
        """Take another configuration; guests keep what was set for them."""
        capacity, user_bytes = config.capacity_bytes, config.user_bytes  # which may fail, before anything changes
        if config.policy != self.config.policy:
            self.policy = policies.get(config.policy)
        self.config = config
        self.user_bytes = user_bytes
        self.ledger.resize(capacity)

    def read_pressure(self) -> None:
        """Read how much of the last ten seconds somebody on this machine waited for memory."""
        try:
            first = _PRESSURE.read_text(encoding="utf-8").split("\n", 1)[0]
            self.pressure = float(first.split("avg10=")[1].split()[0]) / _PER_CENT
        except (OSError, IndexError, ValueError):
            self.pressure = 0.0  # a kernel without it

    def check(self) -> list[str]:
        """Walk everything and return what does not add up, in words."""
        broken = self.ledger.check()
        accounts = {number for number, guest in self.guests.items() if self.ledger.of(number) is guest.holding}
        if accounts != set(self.guests):
            broken.append("a guest's account is not the ledger's")
        for pool in self.pools.values():
            broken += pool.check(self.guests)
        return broken
