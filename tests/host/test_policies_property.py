# SPDX-License-Identifier: Apache-2.0
"""What no policy ever does, whatever the view."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmem import policies
from tmem.policies import GuestView, HostView, Request, broken
from tmem.policies.shares import shares, targets

SMALL = st.integers(0, 40)
PART = st.floats(0, 1)
RAM = st.integers(0, 1 << 32)


@st.composite
def guest_views(draw: st.DrawFn, number: int) -> GuestView:
    persistent = draw(SMALL)
    return GuestView(
        id=number,
        weight=draw(st.integers(0, 5)),
        cap=draw(st.none() | SMALL),
        reservation=draw(st.just(0) | SMALL),
        frozen=draw(st.booleans()),
        persistent=persistent,
        ephemeral=draw(SMALL),
        want=draw(st.just(0) | SMALL),
        ram=draw(RAM),
        budget=draw(RAM),
        resident=draw(RAM),
        idle=draw(PART),
        stall=draw(st.just(0.0) | PART),
        asked=draw(st.integers(0, persistent)),
        balloon=draw(st.none() | RAM),
        deaf=draw(st.booleans()),
    )


@st.composite
def host_views(draw: st.DrawFn) -> HostView:
    guests = tuple(draw(guest_views(number)) for number in range(1, draw(st.integers(0, 5)) + 1))
    free = draw(st.just(0) | SMALL)
    capacity = free + sum(guest.held for guest in guests)
    return HostView(capacity=capacity, free=free, guests=guests, pressure=draw(st.just(0.0) | PART))


@pytest.mark.parametrize("name", policies.NAMES)
@settings(deadline=None)
@given(view=host_views(), data=st.data())
def test_no_decision_breaks_a_law(name: str, view: HostView, data: st.DataObject) -> None:
    policy = policies.get(name)
    assert broken(view, None, policy.decide(view, None)) == ""
    for guest in view.guests:
        request = Request(guest=guest.id, kind=data.draw(st.integers(0, 3)), count=data.draw(st.integers(1, 32)))
        decision = policy.decide(view, request)
        assert broken(view, request, decision) == ""
        assert policy.decide(view, request) == decision
        assert guest.id not in dict((*decision.revoke, *decision.ask))


@settings(deadline=None)
@given(view=host_views())
def test_shares_fill_the_host_within_the_bounds(view: HostView) -> None:
    found = shares(view)
    promised = sum(min(guest.reservation, view.capacity) for guest in view.guests)
    bounds = [view.capacity if guest.cap is None else guest.cap for guest in view.guests]
    assert sum(found.values()) == (min(view.capacity, sum(bounds)) if view.guests else 0)
    for guest in view.guests:
        assert guest.cap is None or found[guest.id] <= guest.cap
        if promised <= view.capacity and guest.cap is None:
            assert found[guest.id] >= min(guest.reservation, view.capacity)


@settings(deadline=None)
@given(view=host_views())
def test_nobody_within_its_share_is_to_have_less(view: HostView) -> None:
    found, aims = shares(view), targets(view)
    assert sum(aims.values()) <= view.capacity or any(guest.deaf for guest in view.guests)
    for guest in view.guests:
        assert aims[guest.id] >= min(found[guest.id], guest.held) - 1  # of rounding


@settings(deadline=None)
@given(view=host_views(), count=st.integers(1, 32))
def test_weighted_takes_only_from_who_is_over_its_share(view: HostView, count: int) -> None:
    found, policy = shares(view), policies.get("weighted")
    held = {guest.id: guest.held for guest in view.guests}
    for request in (None, *(Request(guest=guest.id, count=count) for guest in view.guests)):
        decision = policy.decide(view, request)
        for number, _ in (*decision.revoke, *decision.ask):
            assert held[number] >= found[number]
