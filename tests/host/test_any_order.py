# SPDX-License-Identifier: Apache-2.0
"""Guests that ask, give, sleep, die and come back in any order, under every policy: the sums hold after each step."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.host.daemonthread import ThreadDaemon
from tests.hostguest import RawGuest
from tmem import policies, wire

MIB = 1 << 20
CAPACITY = 24
STEPS = 250
SECRET = bytes(16)


class Crowd:
    """Up to six guests of one daemon, and the random steps they take."""

    def __init__(self, daemon: ThreadDaemon, chance: random.Random) -> None:
        self.daemon, self.chance = daemon, chance
        self.guests: list[RawGuest] = []
        self.copies: list[int] = []  # of extents whose guest is gone

    def step(self) -> None:
        steps = [self.lease, self.lease, self.lease, self.give, self.listen, self.die, self.born, self.set, self.freeze]
        self.chance.choice(steps)()

    def born(self) -> None:
        if len(self.guests) < 6:
            name = f"guest {self.chance.randrange(1 << 30)}"
            guest = self.daemon.guest(name)
            self.daemon.ask("shared-auth", guest=name, secret=SECRET.hex(), allow=True)
            assert guest.join(SECRET) == ""
            self.guests.append(guest)
            guest.send(wire.Report(*[self.chance.randrange(64 * MIB) for _ in range(15)]))

    def lease(self) -> None:
        if self.guests:
            guest, kind = self.chance.choice(self.guests), self.chance.choice([0, 0, 1, 1, 2, 3])
            before = set(guest.held)
            count = self.chance.choice([1, 1, 2, 8])
            assert guest.lease(count, kind, guest.pool if kind > 1 else 0) <= count
            for number in set(guest.held) - before:
                assert os.pread(guest.held[number], MIB, 0) == bytes(MIB), "an extent came with something in it"
                os.pwrite(guest.held[number], b"x" * 4096, 0)

    def give(self) -> None:
        if self.guests:
            guest = self.chance.choice(self.guests)
            guest.give(self.chance.sample(list(guest.held), min(len(guest.held), self.chance.randrange(4))))

    def listen(self) -> None:
        """A guest does what it was asked, or half of it, or says only that it did."""
        if not self.guests:
            return
        guest = self.chance.choice(self.guests)
        guest.give([])  # what came before the answer is noted
        for asked in [said for said in guest.said if isinstance(said, wire.Shrink)]:
            given = list(guest.held)[: self.chance.randrange(asked.bytes // MIB + 1)]
            guest.give(given)
            guest.send(wire.Shrunk(asked.seq, len(given) * MIB))
        for target in [said for said in guest.said if isinstance(said, wire.Balloon)]:
            guest.send(wire.Ballooned(target.seq, target.ram_bytes))
        guest.said.clear()

    def die(self) -> None:
        if self.guests and self.chance.random() < 0.4:
            guest = self.guests.pop(self.chance.randrange(len(self.guests)))
            self.copies += [os.dup(fd) for fd in guest.held.values()]
            guest.close()

    def set(self) -> None:
        if self.guests:
            assert self.guests[0].welcome is not None
            cap = self.chance.choice(["none", 4 * MIB, 20 * MIB])
            self.daemon.ask("set", guest=self.guests[0].welcome.guest_id, weight=self.chance.randrange(5), cap=cap)

    def freeze(self) -> None:
        if self.guests:
            self.daemon.ask(self.chance.choice(["freeze", "thaw", "thaw"]))

    def check(self) -> None:
        host = self.daemon.host

        def look() -> None:
            assert host.check() == []
            assert host.ledger.blocks() == host.ledger.taken <= CAPACITY * MIB
            assert host.counters["internal_errors"] == 0

        self.daemon.call(look)

    def end(self) -> None:
        for guest in self.guests:
            self.copies += [os.dup(fd) for fd in guest.held.values()]
            guest.close()
        self.daemon.wait_until(lambda: not self.daemon.host.guests and not self.daemon.host.ledger.taken)
        assert not self.daemon.call(lambda: self.daemon.host.pools)
        assert [os.fstat(fd).st_blocks for fd in self.copies] == [0] * len(self.copies)
        for fd in self.copies:
            os.close(fd)


@pytest.mark.parametrize("policy", policies.NAMES)
def test_the_sums_hold_after_every_step(tmp_path: Path, policy: str) -> None:
    with ThreadDaemon(tmp_path, capacity=f"{CAPACITY}M", policy_name=policy) as daemon:
        crowd = Crowd(daemon, random.Random(policy))  # noqa: S311 - the same steps every time
        for _ in range(STEPS):
            crowd.step()
            if crowd.chance.random() < 0.1:
                daemon.call(daemon.daemon.server.flow.tick)
            crowd.check()
        assert daemon.call(lambda: daemon.host.counters["granted"]) > 20 or policy == "balloon"
        crowd.end()
