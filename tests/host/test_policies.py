# SPDX-License-Identifier: Apache-2.0
"""Each policy's answer to a view written by hand: who gives, who gets, and in which direction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tmem import policies
from tmem.policies import Decision, GuestView, HostView, Request, broken
from tmem.policies.balloon import FLOOR
from tmem.policies.idle_tax import price
from tmem.policies.shares import shares, targets

MIB = 1 << 20
LEND = ("fixed", "weighted", "idle-tax", "stall")
TAKE = ("fixed", "weighted", "idle-tax", "stall")


def host(*guests: GuestView, capacity: int = 100, pressure: float = 0.0) -> HostView:
    free = capacity - sum(guest.held for guest in guests)
    return HostView(capacity=capacity, free=free, guests=guests, pressure=pressure)


def decide(name: str, view: HostView, request: Request | None = None) -> Decision:
    decision = policies.get(name).decide(view, request)
    assert broken(view, request, decision) == ""
    return decision


def test_names_are_those_that_get_knows() -> None:
    assert policies.NAMES == ("fixed", "weighted", "balloon", "idle-tax", "stall")
    assert [policies.get(name).name for name in policies.NAMES] == list(policies.NAMES)
    with pytest.raises(ValueError, match="unknown policy 'fair': use one of fixed, weighted"):
        policies.get("fair")


# Shares


def test_shares_follow_weights_between_reservation_and_cap() -> None:
    view = host(GuestView(id=1), GuestView(id=2, weight=2), GuestView(id=3, weight=4), capacity=700)
    assert shares(view) == {1: 100, 2: 200, 3: 400}
    view = host(GuestView(id=1, reservation=50), GuestView(id=2, weight=4, cap=10), GuestView(id=3, weight=4))
    assert shares(view) == {1: 50, 2: 10, 3: 40}


def test_shares_are_whole_and_leave_nothing() -> None:
    assert shares(host(*(GuestView(id=n) for n in range(7)), capacity=100)) == {
        n: 15 if n < 2 else 14 for n in range(7)
    }
    assert shares(host()) == {}
    assert shares(host(GuestView(id=1), capacity=0)) == {1: 0}


def test_weight_0_gets_what_others_leave() -> None:
    assert shares(host(GuestView(id=1, weight=0), GuestView(id=2))) == {1: 0, 2: 100}
    assert shares(host(GuestView(id=1, weight=0), GuestView(id=2, cap=30))) == {1: 70, 2: 30}
    assert shares(host(GuestView(id=1, weight=0), GuestView(id=2, weight=0))) == {1: 50, 2: 50}


def test_promises_beyond_the_capacity_are_kept_in_part() -> None:
    assert shares(host(GuestView(id=1, reservation=90), GuestView(id=2, reservation=30))) == {1: 75, 2: 25}


def test_target_lends_what_others_do_not_want() -> None:
    view = host(GuestView(id=1, persistent=60, want=40), GuestView(id=2, persistent=20), capacity=100)
    assert targets(view) == {1: 80, 2: 20}
    view = host(GuestView(id=1, persistent=80), GuestView(id=2, persistent=20, want=10))
    assert targets(view) == {1: 70, 2: 30}


# All that lend


@pytest.mark.parametrize("name", LEND)
def test_one_guest_gets_what_is_free(name: str) -> None:
    assert decide(name, host(GuestView(id=1)), Request(guest=1, count=32)).grant == 32


@pytest.mark.parametrize("name", policies.NAMES)
def test_no_guests_no_moves(name: str) -> None:
    assert decide(name, host()) == Decision()


@pytest.mark.parametrize("name", policies.NAMES)
def test_one_guest_has_nobody_to_take_from(name: str) -> None:
    full = host(GuestView(id=1, persistent=60, ephemeral=40, want=9, stall=0.9, idle=1.0, ram=GIB, budget=GIB))
    request = decide(name, full, Request(guest=1, count=4))
    assert (request.grant, request.revoke, request.ask) == (0, (), ())
    if name != "idle-tax":  # which keeps some free for whoever comes
        assert decide(name, full) == Decision()


@pytest.mark.parametrize("name", LEND)
def test_caps_hold(name: str) -> None:
    at_cap = host(GuestView(id=1, persistent=5, cap=5))
    assert decide(name, at_cap, Request(guest=1)) == Decision(reason="over-cap")
    assert decide(name, host(GuestView(id=1, cap=0)), Request(guest=1)) == Decision(reason="over-cap")
    below = host(GuestView(id=1, persistent=2, cap=5), GuestView(id=2))
    assert decide(name, below, Request(guest=1, count=32)).grant == 3
    lowered = host(GuestView(id=1, persistent=9, cap=5))
    assert decide(name, lowered, Request(guest=1)) == Decision(reason="over-cap")


@pytest.mark.parametrize("name", policies.NAMES)
def test_frozen_gets_nothing(name: str) -> None:
    view = host(GuestView(id=1, frozen=True, want=5, stall=0.9), GuestView(id=2, ephemeral=90))
    assert decide(name, view, Request(guest=1, count=5)) == Decision(reason="frozen")


@pytest.mark.parametrize("name", ["weighted", "idle-tax", "stall"])
def test_what_is_reserved_is_not_lent(name: str) -> None:
    view = host(GuestView(id=1, reservation=80), GuestView(id=2))
    assert decide(name, view, Request(guest=2, count=32)).grant <= 20
    assert decide(name, view, Request(guest=1, count=32)).grant == 32


# Directions: a hog of three gives, and never the two that have less


def crowd(*, kind: str) -> HostView:
    """Return a hog, a modest guest and one in need, of equal weights, on a full host."""
    hog, modest, needy = GuestView(id=1), GuestView(id=2), GuestView(id=3, want=10, stall=0.5)
    held = ((hog, 80), (modest, 15), (needy, 5))
    if kind == "persistent":
        return host(*(replace(guest, persistent=count) for guest, count in held))
    return host(*(replace(guest, ephemeral=count) for guest, count in held))


@pytest.mark.parametrize("name", TAKE)
def test_the_hog_is_the_one_evicted(name: str) -> None:
    decision = decide(name, crowd(kind="ephemeral"), Request(guest=3, count=4))
    assert decision.grant > 0
    assert {number for number, _ in decision.revoke} == {1}
    assert decision.ask == ()


@pytest.mark.parametrize("name", TAKE)
def test_the_hog_is_the_one_asked(name: str) -> None:
    decision = decide(name, crowd(kind="persistent"), Request(guest=3, count=4))
    assert decision.grant == 0
    assert decision.revoke == ()
    assert [number for number, _ in decision.ask] == [1]
    assert decision.reason == "host-full"


@pytest.mark.parametrize("name", TAKE)
@pytest.mark.parametrize("kind", ["persistent", "ephemeral"])
def test_the_tick_takes_from_the_hog(name: str, kind: str) -> None:
    decision = decide(name, crowd(kind=kind))
    assert {number for number, _ in (*decision.revoke, *decision.ask)} == {1}


@pytest.mark.parametrize("name", TAKE)
def test_the_hog_takes_nothing_from_the_modest(name: str) -> None:
    decision = decide(name, crowd(kind="ephemeral"), Request(guest=1, count=8))
    assert (decision.grant, decision.revoke, decision.ask) == (0, (), ())


@pytest.mark.parametrize("name", TAKE)
def test_weight_turns_the_hog_into_the_victim_or_not(name: str) -> None:
    """Both have 50: whoever has less weight gives."""
    for light, heavy in ((1, 2), (2, 1)):
        weights = {light: 1, heavy: 9}
        view = host(*(GuestView(id=n, ephemeral=50, weight=weights[n], want=5, stall=0.2) for n in (1, 2)))
        assert dict(decide(name, view, Request(guest=heavy, count=5)).revoke).keys() == {light}
        assert decide(name, view, Request(guest=light, count=5)).revoke == ()


@pytest.mark.parametrize("name", TAKE)
def test_weight_0_gives_first(name: str) -> None:
    view = host(
        GuestView(id=1, ephemeral=20, weight=0),
        GuestView(id=2, ephemeral=70),
        GuestView(id=3, ephemeral=10, want=5, stall=0.5),
    )
    assert dict(decide(name, view, Request(guest=3, count=1)).revoke).keys() == {1}


@pytest.mark.parametrize("name", TAKE)
def test_what_was_asked_for_is_not_asked_for_twice(name: str) -> None:
    view = host(GuestView(id=1, persistent=95, asked=10), GuestView(id=3, persistent=5, want=10, stall=0.5))
    assert decide(name, view, Request(guest=3, count=4)).ask == ()
    assert decide(name, view).ask == ()


@pytest.mark.parametrize("name", TAKE)
def test_who_does_not_answer_is_passed_over(name: str) -> None:
    view = host(
        GuestView(id=1, persistent=60, deaf=True),
        GuestView(id=2, persistent=38),
        GuestView(id=3, persistent=2, want=4, stall=0.5),
    )
    assert {number for number, _ in decide(name, view).ask} == {2}
    assert {number for number, _ in decide(name, view, Request(guest=3, count=4)).ask} == {2}
    revocable = host(GuestView(id=1, ephemeral=60, deaf=True), *view.guests[1:])
    assert dict(decide(name, revocable, Request(guest=3, count=2)).revoke).keys() == {1}


# Weighted


def test_weighted_asks_only_for_what_is_wanted() -> None:
    decision = decide("weighted", crowd(kind="persistent"))
    assert decision.ask == ((1, 10),)
    idle = host(GuestView(id=1, persistent=80), GuestView(id=2, persistent=20))
    assert decide("weighted", idle) == Decision()


def test_weighted_keeps_free_room_for_who_is_under_its_share() -> None:
    view = host(GuestView(id=1, persistent=80), GuestView(id=2, persistent=15, want=20))
    assert decide("weighted", view, Request(guest=1, count=8)) == Decision(reason="host-full")
    assert decide("weighted", view, Request(guest=2, count=8)).grant == 5


def test_weighted_revokes_of_who_is_over_before_it_asks() -> None:
    view = host(
        GuestView(id=1, persistent=47),
        GuestView(id=2, ephemeral=43),
        GuestView(id=3, persistent=10, want=8),
        capacity=100,
    )
    decision = decide("weighted", view, Request(guest=3, count=8))
    assert (decision.grant, decision.revoke, decision.ask) == (2, ((2, 2),), ((1, 6),))


def test_weighted_leaves_small_differences() -> None:
    view = host(GuestView(id=1, persistent=505), GuestView(id=2, persistent=495, want=50), capacity=1000)
    assert decide("weighted", view) == Decision()


# Fixed


def test_fixed_never_lends_what_is_idle() -> None:
    view = host(GuestView(id=1, persistent=50), GuestView(id=2))
    assert decide("fixed", view, Request(guest=1)) == Decision(reason="quota")
    assert decide("fixed", view, Request(guest=2, count=32)).grant == 32


# Idle tax


def test_price_is_the_formula() -> None:
    assert price(100, 10, 0.0) == pytest.approx(10.0)
    assert price(100, 10, 1.0) == pytest.approx(100 / (10 * 4))
    assert price(100, 10, 0.5) == pytest.approx(100 / (10 * (0.5 + 4 * 0.5)))
    assert price(100, 10, 1.0, tax=0.0) == pytest.approx(10.0)
    assert price(0, 10, 0.0) == 0.0
    assert price(1, 0, 0.0) == float("inf")


def test_idle_tax_takes_from_the_idle_though_it_has_less() -> None:
    view = host(
        GuestView(id=1, ephemeral=40, idle=0.9),
        GuestView(id=2, ephemeral=59),
        GuestView(id=3, ephemeral=1, want=5),
    )
    assert dict(decide("idle-tax", view, Request(guest=3, count=5)).revoke).keys() == {1}


def test_idle_tax_keeps_some_free_and_restores_it() -> None:
    assert decide("idle-tax", host(GuestView(id=1, persistent=94)), Request(guest=1)).reason == "host-full"
    assert decide("idle-tax", host(GuestView(id=1, persistent=96))) == Decision()
    assert decide("idle-tax", host(GuestView(id=1, persistent=97))).ask == ((1, 3),)
    assert decide("idle-tax", host(GuestView(id=1, ephemeral=97))).revoke == ((1, 3),)


def test_idle_tax_takes_down_to_the_reservation_only() -> None:
    assert decide("idle-tax", host(GuestView(id=1, persistent=99, reservation=98))).ask == ((1, 1),)


# Stall


def test_stall_moves_nothing_while_nobody_stalls() -> None:
    view = host(GuestView(id=1, ephemeral=99), GuestView(id=2, ephemeral=1, want=20, stall=0.005))
    assert decide("stall", view) == Decision()
    assert decide("stall", view, Request(guest=2)) == Decision(reason="host-full")


def test_stall_takes_from_who_stalls_least() -> None:
    view = host(
        GuestView(id=1, ephemeral=50, stall=0.2),
        GuestView(id=2, ephemeral=45, stall=0.01),
        GuestView(id=3, ephemeral=5, stall=0.6, want=20),
    )
    assert decide("stall", view).revoke == ((2, 5), (1, 1))
    view = host(*(GuestView(id=n, ephemeral=50, stall=0.4, want=9) for n in (1, 2)))
    assert decide("stall", view) == Decision()


def test_stall_keeps_free_room_for_who_stalls_most() -> None:
    view = host(GuestView(id=1, persistent=90), GuestView(id=2, want=8, stall=0.5))
    assert decide("stall", view, Request(guest=1, count=8)).grant == 2
    assert decide("stall", view, Request(guest=2, count=8)).grant == 8


def test_stall_gives_to_the_machine_under_pressure() -> None:
    view = host(GuestView(id=1, ephemeral=40), GuestView(id=2, ephemeral=20, stall=0.3), pressure=0.4)
    assert decide("stall", view).revoke == ((1, 5),)
    assert decide("stall", view, Request(guest=1)) == Decision(reason="busy")
    assert decide("stall", view, Request(guest=2)).grant == 1


# Balloon


GIB = 1 << 30


def guests_of(hog: GuestView) -> HostView:
    needy = GuestView(id=2, ram=GIB, budget=GIB, resident=GIB // 2, stall=0.4, want=8)
    return host(hog, needy)


def test_balloon_leases_nothing() -> None:
    assert decide("balloon", host(GuestView(id=1)), Request(guest=1)) == Decision(reason="no-policy")


def test_balloon_asks_the_hog_and_the_needy_waits() -> None:
    hog = GuestView(id=1, ram=2 * GIB, budget=2 * GIB, resident=2 * GIB)
    first = decide("balloon", guests_of(hog))
    assert first.balloon == ((1, 2 * GIB - 32 * MIB),)
    asked = GuestView(id=1, ram=2 * GIB, budget=2 * GIB, resident=2 * GIB, balloon=first.balloon[0][1])
    assert decide("balloon", guests_of(asked)) == Decision()
    slow = GuestView(id=1, ram=first.balloon[0][1], budget=2 * GIB, resident=2 * GIB, balloon=first.balloon[0][1])
    assert decide("balloon", guests_of(replace(slow, ram=2 * GIB))) == Decision()
    assert decide("balloon", guests_of(slow)).balloon[0][0] == 1  # all but a little is there: the next piece
    given = replace(slow, resident=first.balloon[0][1])
    assert decide("balloon", guests_of(given)).balloon == ((2, GIB + 32 * MIB),)


def test_balloon_moves_until_both_have_their_part() -> None:
    ram = {1: 160 * MIB, 2: 32 * MIB}
    for _ in range(200):
        guests = [GuestView(id=n, ram=ram[n], budget=b, resident=ram[n], balloon=ram[n], stall=0.5 * (n == 2))
                  for n, b in ((1, 160 * MIB), (2, 32 * MIB))]  # fmt: skip
        ram |= dict(decide("balloon", host(*guests)).balloon)
    assert ram[1] + ram[2] == 192 * MIB
    assert 0 <= ram[1] - ram[2] <= 2 * host().extent_bytes


def test_balloon_asks_nobody_who_is_within_its_part_or_at_the_floor() -> None:
    even = GuestView(id=1, ram=GIB, budget=GIB, resident=GIB)
    assert decide("balloon", guests_of(even)) == Decision()
    small = host(
        GuestView(id=1, ram=FLOOR, budget=FLOOR, resident=FLOOR, weight=0),
        GuestView(id=2, ram=FLOOR, budget=FLOOR, resident=FLOOR, stall=0.5),
    )
    assert decide("balloon", small) == Decision()


# The laws of an answer


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Decision(grant=3), "3 extents granted of 2 asked for"),
        (Decision(revoke=((1, 9),), reason="host-full"), "lose 9 ephemeral extents and has 8"),
        (Decision(ask=((2, 1),), reason="host-full"), "asked for 1 persistent extents and has 0"),
        (Decision(revoke=((7, 1),), reason="host-full"), "guest 7 is none"),
        (Decision(), "without a reason"),
        (Decision(grant=2), "2 extents granted of 1 free"),
    ],
)
def test_a_decision_that_breaks_a_law_is_named(decision: Decision, words: str) -> None:
    view = HostView(capacity=20, free=1, guests=(GuestView(id=1, persistent=8, ephemeral=8), GuestView(id=2, cap=3)))
    assert words in broken(view, Request(guest=2, count=2), decision)
    assert broken(view, None, Decision(grant=1))
