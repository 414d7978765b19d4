# SPDX-License-Identifier: Apache-2.0
"""Ballooning: the host has nothing to lend, it can only ask one guest to shrink so that another may grow.

Owns: the policy `balloon`, what transcendent memory was proposed instead of. Called by the daemon. It leases no extent.
Each guest has a target for its resident set, its own budget at first; all targets together stay what all budgets are.
Law: a guest's target grows only by what another has given already, and one guest at a time is asked to give.
"""

from __future__ import annotations

from typing import ClassVar

from tmem.policies.shares import weights
from tmem.policies.view import Decision, GuestView, HostView, Request

__all__ = ["FLOOR", "NEEDY", "Balloon"]

FLOOR = 16 << 20
"""No guest is asked to go below this: it is the smallest budget that paged memory can have."""
NEEDY = 0.01
"""A guest that waits for its pages this part of the time is in need."""

_STEP = 8
"""A guest is asked for this part of its target at a time."""
_NEAR = 16
"""A resident set that is above its target by no more than this part of it has shrunk to it."""


class Balloon:
    """Asks whoever has most for its weight, and waits."""

    name: ClassVar[str] = "balloon"

    def decide(self, view: HostView, request: Request | None) -> Decision:
        """Grant nothing. What was given goes to who needs it and has least for its weight; else the largest gives."""
        if request is None:
            return Decision(balloon=_move(view))
        return Decision(reason="frozen" if view.guest(request.guest).frozen else "no-policy")


def _move(view: HostView) -> tuple[tuple[int, int], ...]:
    needy = [guest for guest in view.guests if not guest.frozen and (guest.want or guest.stall >= NEEDY)]
    parts = weights(view)
    if not needy:
        return ()
    first = min(needy, key=lambda guest: (_size(guest, _has(guest), parts), -guest.stall, guest.id))
    given = sum(guest.budget - _has(guest) for guest in view.guests)
    if given > 0:
        return ((first.id, _has(first) + min(given, _wish(view, first))),)
    if any(_is_asked(guest) for guest in view.guests):
        return ()
    victim = _largest(view, first, parts)
    piece = 0 if victim is None else _piece(view, victim, first, parts)
    if victim is None or piece <= 0:
        return ()
    return ((victim.id, max(FLOOR, victim.ram - piece)),)


def _has(guest: GuestView) -> int:
    """Return the RAM that counts as a guest's: what it may grow to, and what it is to give until it has."""
    if guest.balloon is None:
        return guest.ram
    return max(guest.ram, guest.balloon, guest.resident)


def _is_asked(guest: GuestView) -> bool:
    """Return whether a guest is still to shrink: it has not begun, or its pages have not left."""
    if not guest.balloon or guest.deaf:
        return False
    return guest.balloon < guest.ram or guest.resident > guest.balloon + guest.balloon // _NEAR


def _wish(view: HostView, guest: GuestView) -> int:
    """Return by how many bytes a guest in need is to grow: by what it wants, or by a part of what it has."""
    return guest.want * view.extent_bytes or max(view.extent_bytes, guest.ram // _STEP)


def _piece(view: HostView, victim: GuestView, needy: GuestView, parts: dict[int, int]) -> int:
    """Return what moves: so much that the needy one has no more for its weight afterwards; 0 for too little."""
    piece = min(_wish(view, needy), max(view.extent_bytes, victim.ram // _STEP))
    mine, other = parts[needy.id], parts[victim.id]
    if other:
        piece = min(piece, (victim.ram * mine - needy.ram * other) // (mine + other))
    return piece if piece >= view.extent_bytes else 0


def _largest(view: HostView, needy: GuestView, parts: dict[int, int]) -> GuestView | None:
    """Return who has most for its weight and more than its part."""
    whole = sum(guest.budget for guest in view.guests)
    heavy = sum(parts.values())

    def over(guest: GuestView) -> bool:
        return guest.resident * heavy > whole * parts[guest.id] and guest.ram > FLOOR

    found = [guest for guest in view.guests if guest.id != needy.id and not guest.deaf and over(guest)]
    return max(found, key=lambda guest: (_size(guest, guest.resident, parts), guest.resident, -guest.id), default=None)


def _size(guest: GuestView, count: int, parts: dict[int, int]) -> float:
    return count / parts[guest.id] if parts[guest.id] else float("inf")
