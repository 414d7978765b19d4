# SPDX-License-Identifier: Apache-2.0
"""A host and its guests on paper: what a policy would do, without a process, a page or a clock.

Owns: the models of guests, the host's loop. Called by tests, and by hand: `python -m tmem.policies.simulate [POLICY]`.
The models are greedy on purpose and as simple as can be: they show who gets what and in which order, and nothing about
how fast a program would run.
Law: a decision that breaks a law of the host ends the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tmem.policies import NAMES, get
from tmem.policies.view import EPHEMERAL, PERSISTENT, GuestView, HostView, Policy, Request, broken

__all__ = ["EXTENT", "Guest", "Run", "greedy", "main", "scene", "simulate", "since", "until"]

EXTENT = 4 << 20
TICK = 1.0
STEP = 0.1
_REQUESTS = 8  # extents that a guest asks for at a time
_FORGET = 2.0  # seconds after which what was refused is no longer wanted

Need = Callable[[float], int]
"""Extents that a guest works with at a time."""


def greedy(_now: float) -> int:
    """Work with more than any host has."""
    return 1 << 20


def until(then: float, extents: int) -> Need:
    """Work with so many extents until then, and with none after."""
    return lambda now: extents if now < then else 0


def since(then: float, extents: int) -> Need:
    """Work with none until then, and with so many extents after."""
    return lambda now: 0 if now < then else extents


@dataclass(slots=True, kw_only=True)
class Guest:
    """A guest's model. It takes what it needs and gives only what it is made to."""

    id: int
    need: Need
    weight: int = 1
    cap: int | None = None
    reservation: int = 0
    kind: int = PERSISTENT
    gives: int = 4  # extents that it gives in a step, of those it was asked for; 0 for one that is deaf
    stall: float = 0.5  # what it waits at most, if it has nothing of what it works with
    budget: int = 64  # its own RAM, in extents
    frozen: bool = False
    deaf: bool = False
    persistent: int = 0
    ephemeral: int = 0
    asked: int = 0
    refused: int = 0
    refused_at: float = -1e9
    ram: int = 0
    target: int | None = None
    at: list[int] = field(default_factory=list)  # extents held, and RAM, after each tick
    ram_at: list[int] = field(default_factory=list)

    def lacks(self, now: float) -> int:
        """Return the extents it works with and has not, its own RAM beyond its budget counted."""
        return max(0, self.need(now) - self.persistent - self.ephemeral - (self.ram - self.budget))

    def view(self, now: float) -> GuestView:
        """Return what the host sees of it."""
        need, has = self.need(now), self.persistent + self.ephemeral
        short = self.lacks(now)
        wants = min(short, self.refused) if now - self.refused_at < _FORGET else 0
        return GuestView(
            id=self.id,
            weight=self.weight,
            cap=self.cap,
            reservation=self.reservation,
            frozen=self.frozen,
            persistent=self.persistent,
            ephemeral=self.ephemeral,
            want=wants,
            ram=self.ram * EXTENT,
            budget=self.budget * EXTENT,
            resident=self.ram * EXTENT,
            idle=1.0 - min(1.0, need / has) if has else 0.0,
            stall=self.stall * short / max(1, short + has + self.ram),
            asked=self.asked,
            deaf=self.deaf,
            balloon=None if self.target is None else self.target * EXTENT,
        )


@dataclass(slots=True)
class Run:
    """A host that runs under a policy."""

    policy: Policy
    capacity: int
    guests: Sequence[Guest]
    now: float = 0.0
    moved: int = 0  # extents revoked or given back so far

    @property
    def free(self) -> int:
        """Extents that nobody has."""
        return self.capacity - sum(guest.persistent + guest.ephemeral for guest in self.guests)

    def view(self) -> HostView:
        """Return what the policy sees."""
        guests = tuple(guest.view(self.now) for guest in self.guests)
        return HostView(capacity=self.capacity, free=self.free, guests=guests, now=self.now, extent_bytes=EXTENT)

    def decide(self, request: Request | None) -> int:
        """Ask the policy and do what it says; how many extents were granted."""
        view = self.view()
        decision = self.policy.decide(view, request)
        wrong = broken(view, request, decision)
        if wrong:
            raise AssertionError(f"{self.policy.name} at {self.now:.1f} s, {request}: {wrong}")
        by_id = {guest.id: guest for guest in self.guests}
        for number, count in decision.revoke:
            by_id[number].ephemeral -= count
            self.moved += count
        for number, count in decision.ask:
            by_id[number].asked = min(by_id[number].persistent, by_id[number].asked + count)
        for number, ram in decision.balloon:
            guest = by_id[number]
            guest.target = ram // EXTENT if ram else guest.budget
            if guest.target > guest.ram:
                guest.ram, guest.target = guest.target, None
        if request is not None:
            self._grant(by_id[request.guest], request, decision.grant)
        return decision.grant

    def _grant(self, guest: Guest, request: Request, count: int) -> None:
        if request.kind == PERSISTENT:
            guest.persistent += count
        else:
            guest.ephemeral += count
        if count < request.count:
            guest.refused, guest.refused_at = guest.lacks(self.now), self.now

    def step(self) -> None:
        """Let a step's time pass: guests give what they were asked for, then ask, each in its turn."""
        for guest in self.guests:
            if guest.asked and not guest.gives:
                guest.asked, guest.deaf = 0, True
            count = min(guest.gives, guest.asked)
            guest.asked -= count
            guest.persistent -= count
            self.moved += count
            if guest.target is not None:
                guest.ram = max(guest.target, guest.ram - guest.gives)
                guest.target = None if guest.ram == guest.target else guest.target
        for guest in self.guests:
            short = min(guest.lacks(self.now), _REQUESTS)
            if short:
                self.decide(Request(guest=guest.id, kind=guest.kind, count=short))
        self.now += STEP


def simulate(policy: Policy, capacity: int, guests: Sequence[Guest], seconds: int) -> Run:
    """Run guests on a host of so many extents for so many seconds, and note after each what everyone has."""
    run = Run(policy, capacity, guests)
    for guest in guests:
        guest.ram = guest.ram or guest.budget
    for _ in range(seconds):
        for _ in range(round(TICK / STEP)):
            run.step()
        run.decide(None)
        for guest in guests:
            guest.at.append(guest.persistent + guest.ephemeral)
            guest.ram_at.append(guest.ram)
    return run


def scene() -> list[Guest]:
    """Return three guests: a hog, one that falls asleep after ten seconds, and one that wakes up then."""
    return [
        Guest(id=1, need=greedy, weight=1, kind=EPHEMERAL),
        Guest(id=2, need=until(10.0, 600), weight=2),
        Guest(id=3, need=since(10.0, 600), weight=4),
    ]


def main(names: Sequence[str]) -> int:
    """Write what the policies of those names, or all, make of the scene: extents of each guest by seconds."""
    for name in names or NAMES:
        guests = scene()
        simulate(get(name), 1000, guests, 40)
        sys.stdout.write(f"{name}: extents of 1000 (RAM beyond its budget) of a hog, a sleeper, a waker\n")
        for second in (1, 5, 10, 12, 15, 20, 30, 40):
            cells = [f"{g.at[second - 1]:5} ({g.ram_at[second - 1] - g.budget:+4})" for g in guests]
            sys.stdout.write(f"  {second:3} s  " + "  ".join(cells) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
