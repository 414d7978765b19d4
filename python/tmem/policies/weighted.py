# SPDX-License-Identifier: Apache-2.0
"""Weights, caps and reservations: free room goes to whoever asks, and is taken back from who is most over its share.

Owns: the policy `weighted`, Xen's weights with the comparison the right way round, and caps that hold. Called by the
daemon. It does not look at what memory is used for: a guest keeps its share also while it sleeps.
Law: a guest over its share takes nothing from one that is not; who is most over is the first to give (law 11).
"""

from __future__ import annotations

from typing import ClassVar

from tmem.policies.shares import lendable, targets
from tmem.policies.take import Order, Taken, take, under_way
from tmem.policies.view import Decision, GuestView, HostView, Request

__all__ = ["Weighted", "divide"]

_SLACK = 64
"""Who lacks less than this part of its target takes nothing from others: what moves for ever helps nobody."""
_TICK = 8
"""Of the capacity, at most this part is set moving in one tick."""


class Weighted:
    """The share of a guest is its weight's part of the capacity; what others do not want is lent on top."""

    name: ClassVar[str] = "weighted"

    def decide(self, view: HostView, request: Request | None) -> Decision:
        """Grant what the guest's target has room for, and take back from who is over its own."""
        if request is not None:
            guest = view.guest(request.guest)
            count = guest.may_grow(request.count)
            wanted = sum(other.want for other in view.guests if other.id != guest.id)
            if 0 < count <= lendable(view, guest) - wanted:
                return Decision(grant=count)  # there is enough for everybody, so targets need not be known
        return divide(view, request, targets(view, request))


def divide(view: HostView, request: Request | None, target: dict[int, int]) -> Decision:
    """Move the host toward a target in extents for each guest."""
    if request is None:
        return _tick(view, target)
    guest = view.guest(request.guest)
    count = guest.may_grow(request.count)
    if not count:
        return Decision(reason="frozen" if guest.frozen else "over-cap")
    lacks = target[guest.id] - guest.held
    count = min(count, lacks)
    if count <= 0:
        return Decision(reason="host-full")
    free = min(count, lendable(view, guest))
    taken = Taken()
    if lacks > target[guest.id] // _SLACK:
        taken = take(view, _spare(view, target), count - free, under_way(view), _most_over(target))
    grant = min(count, free + taken.revoked)
    return Decision(
        grant=grant,
        revoke=tuple(taken.revoke.items()),
        ask=tuple(taken.ask.items()),
        reason="" if grant else "host-full",
    )


def _tick(view: HostView, target: dict[int, int]) -> Decision:
    """Take back what guests under their targets want and do not find free."""
    missing = 0
    for guest in view.guests:
        lacks = min(guest.want, target[guest.id] - guest.held)
        if not guest.frozen and lacks > target[guest.id] // _SLACK:
            missing += lacks
    coming = under_way(view)
    need = min(missing - view.free - coming, max(1, view.capacity // _TICK))
    taken = take(view, _spare(view, target), need, 0, _most_over(target))
    return Decision(revoke=tuple(taken.revoke.items()), ask=tuple(taken.ask.items()))


def _spare(view: HostView, target: dict[int, int]) -> dict[int, int]:
    """Return what each guest has beyond its target, less what it was asked for already."""
    return {guest.id: guest.held - guest.asked - target[guest.id] for guest in view.guests}


def _most_over(target: dict[int, int]) -> Order:
    """Order by how many times its target a guest has; those with no target before all others, the largest first."""

    def order(guest: GuestView, has: int) -> tuple[float, int, int]:
        whole = target[guest.id]
        return (-has / whole if whole else -float("inf"), -has, guest.id)

    return order
