# SPDX-License-Identifier: Apache-2.0
"""What part of the host is whose: weights, caps and reservations, poured like water.

Owns: the arithmetic of shares. Called by the policies, and by the daemon for what it tells of a guest.
Every guest is given room in proportion to its weight, none less than its reservation, none more than its bound; what a
bound leaves over is divided among the others. A weight of 0 gets what all others leave; where all are 0, all are equal.
Law: shares are whole extents, never more than the capacity together, and the same for the same view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tmem.policies.view import GuestView, HostView, Request

__all__ = ["lendable", "shares", "targets", "weights"]


_NONE: Mapping[int, int] = {}


@dataclass(slots=True)
class _Cup:
    """What one guest may have: at least `low`, at most `high`."""

    id: int
    weight: int
    low: int
    high: int

    def at(self, level: float) -> float:
        return min(max(level * self.weight, self.low), self.high)


def weights(view: HostView) -> dict[int, int]:
    """Return what each guest weighs; 1 for all where all are 0."""
    equal = all(guest.weight <= 0 for guest in view.guests)
    return {guest.id: 1 if equal else max(guest.weight, 0) for guest in view.guests}


def shares(view: HostView) -> dict[int, int]:
    """Return each guest's share in extents, whatever it holds or wants."""
    return _pour(view, {guest.id: guest.cap for guest in view.guests})


def targets(view: HostView, request: Request | None = None) -> dict[int, int]:
    """Return what each guest is to have, now that some want less than their shares: that is lent to the others.

    What a deaf guest cannot be made to give is not there to be divided.
    None is to have less than the smaller of its share and what it holds: to want nothing more is no reason to lose.
    """
    bounds: dict[int, int | None] = {}
    for guest in view.guests:
        asks = request.count if request is not None and request.guest == guest.id else 0
        wish = guest.held + (0 if guest.frozen else max(guest.want, asks))
        bounds[guest.id] = wish if guest.cap is None else min(wish, guest.cap)
    deaf = {guest.id: guest.persistent for guest in view.guests if guest.deaf}
    found = _pour(view, bounds, deaf)
    if not deaf:
        return found
    # What the deaf keep is missed by those over their shares, and by nobody else.
    parts = shares(view)
    return {guest.id: max(found[guest.id], min(parts[guest.id], guest.held)) for guest in view.guests}


def lendable(view: HostView, guest: GuestView) -> int:
    """Return the free extents that a guest may have: not those that others have reserved and do not use yet."""
    kept = sum(_unused(other) for other in view.guests if other.id != guest.id)
    return max(0, view.free - kept) if kept else view.free


def _unused(guest: GuestView) -> int:
    reserved = guest.reservation if guest.cap is None else min(guest.reservation, guest.cap)
    return max(0, reserved - guest.held)


def _pour(view: HostView, bounds: Mapping[int, int | None], kept: Mapping[int, int] = _NONE) -> dict[int, int]:
    """Divide the capacity; `bounds`: what each may have at most beyond its reservation; `kept`: what some will have."""
    parts = weights(view)
    cups = []
    for guest in view.guests:
        low = guest.reservation if guest.cap is None else min(guest.reservation, guest.cap)
        low = max(0, low, kept.get(guest.id, 0))
        bound = bounds[guest.id]
        high = view.capacity if bound is None else bound
        cups.append(_Cup(guest.id, parts[guest.id], min(low, view.capacity), max(low, min(high, view.capacity))))
    if sum(cup.high for cup in cups) <= view.capacity:
        return {cup.id: cup.high for cup in cups}
    promised = sum(cup.low for cup in cups)
    if promised >= view.capacity:  # more was promised than there is: each gets its part of it
        return _whole({cup.id: view.capacity * cup.low / promised if promised else 0.0 for cup in cups}, view.capacity)
    level = _level([cup for cup in cups if cup.weight], view.capacity - sum(c.low for c in cups if not c.weight))
    exact = {cup.id: cup.at(level) for cup in cups}
    left = view.capacity - sum(exact.values())
    light = [_Cup(cup.id, 1, cup.low, cup.high) for cup in cups if not cup.weight]
    level = _level(light, left + sum(cup.low for cup in light))
    exact |= {cup.id: cup.at(level) for cup in light}
    return _whole(exact, view.capacity)


def _level(cups: list[_Cup], room: float) -> float:
    """Return the level at which the cups hold `room`, or one at which all are full."""
    bends = sorted(
        [(cup.low / cup.weight, cup.weight) for cup in cups] + [(c.high / c.weight, -c.weight) for c in cups]
    )
    level, width, left = 0.0, 0, room - sum(cup.low for cup in cups)
    for height, change in bends:
        if width and left < (height - level) * width:
            return level + max(0.0, left) / width
        left -= (height - level) * width
        level, width = height, width + change
    return level


def _whole(exact: Mapping[int, float], capacity: int) -> dict[int, int]:
    """Return whole extents: the largest remainders are rounded up while there is room; of equals, the older guest's."""
    tiny = 1e-6  # what rounding left below a whole number
    result = {number: int(value + tiny) for number, value in exact.items()}
    left = min(capacity, int(sum(exact.values()) + tiny)) - sum(result.values())
    order = sorted(exact, key=lambda number: (round(result[number] - exact[number], 6), number))
    for number in order[: max(0, left)]:
        if exact[number] > result[number] + tiny:
            result[number] += 1
    return result
