# SPDX-License-Identifier: Apache-2.0
"""What a policy sees, and what it may answer.

Owns: the words between the daemon and the policies, and the laws of an answer. Called by every policy, the daemon, the
simulator. Memory of the host is counted in extents, a guest's own RAM in bytes.
Law: a decision grants no more than there is, within the guest's cap, and nothing to a frozen guest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Protocol

__all__ = ["EPHEMERAL", "PERSISTENT", "Decision", "GuestView", "HostView", "Policy", "Request", "broken"]

PERSISTENT, EPHEMERAL = 0, 1
"""Kinds of lease. All kinds but the first can be revoked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestView:
    """One guest. `cap` and `reservation` are extents."""

    id: int
    name: str = ""
    uid: int = 0
    weight: int = 1
    cap: int | None = None
    reservation: int = 0
    frozen: bool = False
    persistent: int = 0  # extents held
    ephemeral: int = 0  # extents held that can be revoked, shared ones included
    want: int = 0  # extents it was refused lately, and still wants
    ram: int = 0  # the target of its resident set now, bytes
    budget: int = 0  # its own RAM, bytes: the target it came with
    resident: int = 0  # what it takes of that: its resident set, and all else that its own RAM covers
    idle: float = 0.0  # part of its stored pages that was not touched lately, sampled
    stall: float = 0.0  # seconds it waited for pages, per second
    asked: int = 0  # extents it was asked for and has not given
    balloon: int | None = None  # target of the resident set that it was asked for
    deaf: bool = False  # it did not give what it was asked for, and is not to be asked for a while

    @property
    def held(self) -> int:
        """Extents it has."""
        return self.persistent + self.ephemeral

    def may_grow(self, count: int) -> int:
        """Return how many of so many extents more it may have; none while it is frozen."""
        if self.frozen:
            return 0
        return count if self.cap is None else max(0, min(count, self.cap - self.held))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """The host and its guests at one moment. `capacity` and `free` are extents."""

    capacity: int
    free: int
    guests: tuple[GuestView, ...] = ()
    now: float = 0.0
    extent_bytes: int = 4 << 20
    pressure: float = 0.0  # part of the last ten seconds in which somebody on the machine waited for memory

    def guest(self, number: int) -> GuestView:
        """Return the guest of that id. KeyError where there is none."""
        for guest in self.guests:
            if guest.id == number:
                return guest
        raise KeyError(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A guest asks for so many extents."""

    guest: int
    kind: int = PERSISTENT
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the host is to do, in this order: revoke, grant, ask. `reason` says why nothing is granted."""

    grant: int = 0
    revoke: tuple[tuple[int, int], ...] = ()  # (guest, ephemeral extents), at once
    ask: tuple[tuple[int, int], ...] = ()  # (guest, persistent extents)
    balloon: tuple[tuple[int, int], ...] = ()  # (guest, bytes of RAM; 0 for its own budget)
    reason: str = ""


class Policy(Protocol):
    """Decides a request; without one, what is to be done once a second."""

    name: ClassVar[str]

    def decide(self, view: HostView, request: Request | None) -> Decision:
        """Return what the host is to do."""
        ...


def broken(view: HostView, request: Request | None, decision: Decision) -> str:
    """Return in words which law a decision breaks; an empty text for none."""
    guests = {guest.id: guest for guest in view.guests}
    taken: Counter[int] = Counter()
    for number, count in decision.revoke:
        taken[number] += count
    wrong = _wrong_takes(guests, taken, decision)
    if wrong:
        return wrong
    if request is None:
        return f"{decision.grant} extents granted that nobody asked for" if decision.grant else ""
    return _wrong_grant(view, guests[request.guest], request, decision, taken)


def _wrong_takes(guests: dict[int, GuestView], taken: Counter[int], decision: Decision) -> str:
    asked: Counter[int] = Counter()
    for number, count in decision.ask:
        asked[number] += count
    for number in {*taken, *asked, *(number for number, _ in decision.balloon)}:
        if number not in guests:
            return f"guest {number} is none of the host's"
    counts = [count for _, count in (*decision.revoke, *decision.ask)]
    if any(count <= 0 for count in counts) or any(ram < 0 for _, ram in decision.balloon):
        return "a number that is not positive"
    for number, count in taken.items():
        if count > guests[number].ephemeral:
            return f"guest {number} is to lose {count} ephemeral extents and has {guests[number].ephemeral}"
    for number, count in asked.items():
        if count > guests[number].persistent:
            return f"guest {number} is asked for {count} persistent extents and has {guests[number].persistent}"
    return ""


def _wrong_grant(view: HostView, guest: GuestView, request: Request, decision: Decision, taken: Counter[int]) -> str:
    if decision.grant < 0 or decision.grant > request.count:
        return f"{decision.grant} extents granted of {request.count} asked for"
    if decision.grant > view.free + sum(taken.values()):
        return f"{decision.grant} extents granted of {view.free} free and {sum(taken.values())} revoked"
    if decision.grant and guest.frozen:
        return f"guest {guest.id} is frozen"
    if decision.grant and guest.cap is not None and guest.held - taken[guest.id] + decision.grant > guest.cap:
        return f"guest {guest.id} would have more than its cap of {guest.cap}"
    if not decision.grant and not decision.reason:
        return "a refusal without a reason"
    return ""
