# SPDX-License-Identifier: Apache-2.0
"""Memory goes to who waits for it: from the guest that stalls least for what it has to the one that stalls most.

Owns: the policy `stall`. Called by the daemon. A guest's stall is the time that it waited for pages, as a part of the
time that passed; the machine's is the kernel's pressure (PSI). Both are of the last seconds, so little moves at a time.
Law: while nobody stalls, nothing moves.
"""

from __future__ import annotations

from typing import ClassVar

from tmem.policies.shares import lendable, weights
from tmem.policies.take import Order, Taken, take, under_way
from tmem.policies.view import Decision, GuestView, HostView, Request

__all__ = ["NEEDY", "PRESSED", "Stall"]

NEEDY = 0.01
"""A guest that waits less than this part of the time does not stall."""
PRESSED = 0.10
"""Where somebody on the machine waits for memory so often, who does not stall is granted no more, and what can be
revoked of such guests goes back to the machine."""

_TIMES = 2.0
"""A guest gives only to one that stalls so many times as much."""
_STEP, _PIECE = 16, 8
"""At most this part of the capacity moves at once, and of what one guest has: its effect is to be seen first."""


class Stall:
    """Feedback from those who wait, and no promise to anybody beyond reservations."""

    name: ClassVar[str] = "stall"

    def decide(self, view: HostView, request: Request | None) -> Decision:
        """Grant what is free and not wanted by somebody worse off; take from who stalls less."""
        if request is None:
            return _tick(view)
        guest = view.guest(request.guest)
        count = guest.may_grow(request.count)
        if not count:
            return Decision(reason="frozen" if guest.frozen else "over-cap")
        parts = weights(view)
        stalls = _need(guest, parts) > 0
        if view.pressure >= PRESSED and not stalls and guest.held >= guest.reservation:
            return Decision(reason="busy")
        promised = sum(other.want for other in view.guests if other.id != guest.id and _worse(other, guest, parts))
        free = min(count, max(0, lendable(view, guest) - promised))
        taken = Taken()
        if free < count and stalls:
            taken = _take(view, guest, count - free, under_way(view), parts)
        grant = min(count, free + taken.revoked)
        return Decision(
            grant=grant,
            revoke=tuple(taken.revoke.items()),
            ask=tuple(taken.ask.items()),
            reason="" if grant else "host-full",
        )


def _tick(view: HostView) -> Decision:
    """Take for the guest that stalls most and wants memory; under the machine's pressure, for the machine."""
    parts = weights(view)
    most = max(1, view.capacity // _STEP)
    if view.pressure >= PRESSED:
        spare = {guest.id: min(_piece(guest), guest.ephemeral) for guest in view.guests if not _need(guest, parts)}
        return Decision(revoke=tuple(take(view, spare, most, most, _least(parts)).revoke.items()))
    needy = [guest for guest in view.guests if guest.may_grow(guest.want) and _need(guest, parts) > 0]
    if not needy:
        return Decision()
    neediest = max(needy, key=lambda guest: (_need(guest, parts), -guest.id))
    need = min(neediest.want, most) - view.free - under_way(view)
    taken = _take(view, neediest, need, 0, parts)
    return Decision(revoke=tuple(taken.revoke.items()), ask=tuple(taken.ask.items()))


def _take(view: HostView, guest: GuestView, need: int, coming: int, parts: dict[int, int]) -> Taken:
    spare = {other.id: _piece(other) for other in view.guests if _worse(guest, other, parts)}
    return take(view, spare, need, coming, _least(parts))


def _need(guest: GuestView, parts: dict[int, int]) -> float:
    """Return how much a guest's waiting counts; 0 for one that does not stall."""
    return guest.stall * parts[guest.id] if guest.stall >= NEEDY else 0.0


def _worse(one: GuestView, other: GuestView, parts: dict[int, int]) -> bool:
    """Whether one guest is so much worse off than another that the other is to give."""
    need = _need(one, parts)
    return one.id != other.id and need > 0 and need > _TIMES * _need(other, parts)


def _piece(guest: GuestView) -> int:
    """Return what a guest can be made to give at once."""
    over = guest.held - guest.asked - guest.reservation
    return min(over, max(1, guest.held // _PIECE) - guest.asked)


def _least(parts: dict[int, int]) -> Order:
    """Order by what a guest stalls for each extent it has; of equals the one with most for its weight first."""

    def order(guest: GuestView, has: int) -> tuple[float, float, int]:
        size = has / parts[guest.id] if parts[guest.id] else float("inf")
        return (_need(guest, parts) / max(has, 1), -size, guest.id)

    return order
