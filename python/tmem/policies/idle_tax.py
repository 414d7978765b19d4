# SPDX-License-Identifier: Apache-2.0
"""The idle memory tax of VMware's ESX: memory that is not used costs its owner more than memory that is.

Owns: the policy `idle-tax`. Called by the daemon. The price that a guest pays for its memory is
rho = S / (P (f + k (1 - f))) shares for each extent: S its weight, P the extents it has, f the part of them in use, and
k = 1 / (1 - tau) what an idle one counts. Whoever pays least gives first. Some memory is kept free for a sudden need.
Law: a guest gives only to one that pays more than it did, and would still after the move.
"""

from __future__ import annotations

from typing import ClassVar

from tmem.policies.shares import lendable, weights
from tmem.policies.take import Order, Taken, take, under_way
from tmem.policies.view import Decision, GuestView, HostView, Request

__all__ = ["HARD", "HIGH", "LOW", "SOFT", "TAX", "IdleTax", "price"]

TAX = 0.75
"""tau: the part of an idle extent that is taxed away. 0 makes all extents equal; near 1 an idle guest keeps nothing."""

HIGH, SOFT, HARD, LOW = 0.06, 0.04, 0.02, 0.01
"""Parts of the capacity that are free. Above HIGH anybody is granted the rest. Between HIGH and HARD only who pays more
than another, and from SOFT down the tick takes back until HIGH is reached. Below HARD such a guest gets what can be
revoked there and then, and what is free only where that is not enough, and down to LOW."""

_MARGIN = 1.03
"""So much more than another a guest must pay to get what is the other's."""


def price(weight: float, extents: float, idle: float, tax: float = TAX) -> float:
    """Return rho, the shares that are paid for each extent; without a limit for who has none."""
    if weight <= 0:
        return 0.0
    active = 1.0 - min(max(idle, 0.0), 1.0)
    cost = extents * (active + (1.0 - active) / (1.0 - tax))
    return weight / cost if cost > 0 else float("inf")


class IdleTax:
    """Shares buy memory, and idle memory costs four times as much."""

    name: ClassVar[str] = "idle-tax"

    def decide(self, view: HostView, request: Request | None) -> Decision:
        """Grant free extents above the mark to anybody, those below it to who pays more than another."""
        parts = weights(view)
        if request is None:
            return _tick(view, parts)
        guest = view.guest(request.guest)
        count = guest.may_grow(request.count)
        if not count:
            return Decision(reason="frozen" if guest.frozen else "over-cap")
        free = lendable(view, guest)
        grant = min(count, free, max(view.free - _mark(view, HIGH), guest.reservation - guest.held, 0))
        spare = _cheaper(view, guest, grant, count - grant, parts)
        rest = sum(spare.values())
        if rest:
            lent = max(0, min(rest, free - grant, view.free - grant - _mark(view, HARD)))
            taken = take(view, spare, rest - lent, under_way(view), _cheapest(parts))
            forced = min(rest - lent, taken.revoked)
            last = max(0, min(rest - lent - forced, free - grant - lent, view.free - grant - lent - _mark(view, LOW)))
            grant += lent + forced + last
        else:
            taken = Taken()
        return Decision(
            grant=grant,
            revoke=tuple(taken.revoke.items()),
            ask=tuple(taken.ask.items()),
            reason="" if grant else "host-full",
        )


def _tick(view: HostView, parts: dict[int, int]) -> Decision:
    """Below the mark SOFT, take back from who pays least until HIGH is reached."""
    if view.free >= _mark(view, SOFT):
        return Decision()
    spare = {guest.id: guest.held - guest.asked - guest.reservation for guest in view.guests}
    taken = take(view, spare, _mark(view, HIGH) - view.free - under_way(view), 0, _cheapest(parts))
    return Decision(revoke=tuple(taken.revoke.items()), ask=tuple(taken.ask.items()))


def _cheaper(view: HostView, guest: GuestView, granted: int, count: int, parts: dict[int, int]) -> dict[int, int]:
    """Return what others can spare for a guest, extent by extent, as long as it pays more than they do."""
    has = {other.id: other.held - other.asked for other in view.guests}
    least = {other.id: max(other.reservation, other.persistent if other.deaf else 0) for other in view.guests}
    others = [other for other in view.guests if other.id != guest.id]
    mine = guest.held + granted
    spare: dict[int, int] = {}

    def cost(other: GuestView) -> float:
        return price(parts[other.id], has[other.id], other.idle)

    for _ in range(count):
        others = [other for other in others if has[other.id] > least[other.id]]
        if not others:
            break
        victim = min(others, key=lambda other: (cost(other), -has[other.id], other.id))
        if price(parts[guest.id], mine + 1, guest.idle) <= _MARGIN * cost(victim):
            break
        has[victim.id] -= 1
        mine += 1
        spare[victim.id] = spare.get(victim.id, 0) + 1
    return spare


def _cheapest(parts: dict[int, int]) -> Order:
    def order(guest: GuestView, has: int) -> tuple[float, int, int]:
        return (price(parts[guest.id], has, guest.idle), -has, guest.id)

    return order


def _mark(view: HostView, part: float) -> int:
    return int(view.capacity * part)
