# SPDX-License-Identifier: Apache-2.0
"""Who gives how much, once it is known who may be made to.

Owns: the order of giving. Called by policies that take memory back. What can be revoked goes before what can only be
asked for, because whoever needs it does not have to wait for it.
Law: whoever comes first in the order gives until it no longer comes first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tmem.policies.view import GuestView, HostView

__all__ = ["Order", "Taken", "spread", "take", "under_way"]

Order = Callable[[GuestView, int], Any]
"""What a guest is sorted by if it has so many extents; the smallest gives first."""

_STEPS = 64  # a large need is met in so many steps, not extent by extent


@dataclass(slots=True)
class Taken:
    """Extents by guest: revoked at once, and asked for."""

    revoke: dict[int, int] = field(default_factory=dict)
    ask: dict[int, int] = field(default_factory=dict)

    @property
    def revoked(self) -> int:
        """Extents that are there at once."""
        return sum(self.revoke.values())


def under_way(view: HostView) -> int:
    """Return the extents that were asked for and are still to come."""
    return sum(guest.asked for guest in view.guests if not guest.deaf)


def take(view: HostView, spare: Mapping[int, int], need: int, coming: int, order: Order) -> Taken:
    """Find `need` extents among what guests can spare. Those `coming` are not asked for once more.

    What a guest can spare is without what it was asked for before.
    """
    guests = [guest for guest in view.guests if spare.get(guest.id, 0) > 0]
    has = {guest.id: guest.held - guest.asked for guest in guests}
    held = {guest.id: min(spare[guest.id], guest.ephemeral) for guest in guests}
    revoke = spread(guests, has, held, need, order)
    has = {number: count - revoke.get(number, 0) for number, count in has.items()}
    rest = {}
    for guest in guests:
        left = spare[guest.id] - revoke.get(guest.id, 0)
        rest[guest.id] = 0 if guest.deaf else max(0, min(left, guest.persistent - guest.asked))
    ask = spread(guests, has, rest, need - sum(revoke.values()) - coming, order)
    return Taken(revoke, ask)


def spread(
    guests: list[GuestView], has: Mapping[int, int], most: Mapping[int, int], need: int, order: Order
) -> dict[int, int]:
    """Divide `need` among the guests, of each at most `most`, always from the first in the order; what each gives."""
    given: dict[int, int] = {}
    step = max(1, need // _STEPS)
    queue = [(order(g, has[g.id]), n, g) for n, g in enumerate(guests) if most[g.id] > 0]
    heapq.heapify(queue)
    while queue and need > 0:
        _, number, guest = heapq.heappop(queue)
        before = given.get(guest.id, 0)
        count = min(step, need, most[guest.id] - before)
        given[guest.id] = before + count
        need -= count
        if given[guest.id] < most[guest.id]:
            heapq.heappush(queue, (order(guest, has[guest.id] - given[guest.id]), number, guest))
    return given
