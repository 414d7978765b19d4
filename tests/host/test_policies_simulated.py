# SPDX-License-Identifier: Apache-2.0
"""Policies over time, on guests that are models: where it ends, whether it stays there, who waits."""

from __future__ import annotations

import pytest

from tmem.policies import NAMES, get
from tmem.policies.simulate import Guest, greedy, main, simulate, since, until
from tmem.policies.view import EPHEMERAL, PERSISTENT

CAPACITY = 700


def hogs(kind: int) -> list[Guest]:
    return [Guest(id=n, need=greedy, weight=w, kind=kind) for n, w in ((1, 1), (2, 2), (3, 4))]


@pytest.mark.parametrize("kind", [PERSISTENT, EPHEMERAL])
@pytest.mark.parametrize("late", [None, 1, 2, 3])
@pytest.mark.parametrize("name", ["fixed", "weighted", "idle-tax"])
def test_hogs_settle_at_their_shares_and_stay(name: str, kind: int, late: int | None) -> None:
    guests = hogs(kind)
    for guest in guests:
        if guest.id == late:
            guest.need = since(20.0, 1 << 20)
    run = simulate(get(name), CAPACITY, guests, 120)
    moved = run.moved
    whole = sum(guest.at[-1] for guest in guests)
    assert whole >= CAPACITY * 0.93
    for guest in guests:
        assert guest.at[-1] == pytest.approx(whole * guest.weight / 7, rel=0.05)
        assert set(guest.at[-30:]) == {guest.at[-1]}
    for _ in range(100):
        run.step()
        run.decide(None)
    assert run.moved == moved


@pytest.mark.parametrize("name", ["weighted", "idle-tax", "stall"])
def test_idle_gives_way_to_busy(name: str) -> None:
    sleeper = Guest(id=1, need=until(10.0, 500))
    waker = Guest(id=2, need=since(10.0, 500))
    simulate(get(name), 500, [sleeper, waker], 60)
    assert sleeper.at[9] > 400
    assert waker.at[9] == 0
    assert waker.at[-1] >= 225


def test_fixed_lends_nothing_of_the_sleepers_part() -> None:
    sleeper, hog = Guest(id=1, need=until(0.0, 0)), Guest(id=2, need=greedy)
    simulate(get("fixed"), 500, [sleeper, hog], 20)
    assert hog.at[-1] == 250


@pytest.mark.parametrize("name", NAMES)
def test_caps_are_never_passed(name: str) -> None:
    guests = [Guest(id=1, need=greedy, cap=30), Guest(id=2, need=greedy, cap=0), Guest(id=3, need=until(9.0, 100))]
    simulate(get(name), 200, guests, 30)
    assert max(guests[0].at) <= 30
    assert max(guests[1].at) == 0


@pytest.mark.parametrize("name", ["weighted", "idle-tax", "stall"])
def test_a_busy_guest_has_revocable_room_with_its_first_request(name: str) -> None:
    hog = Guest(id=1, need=until(20.0, 1 << 20), kind=EPHEMERAL, gives=0)
    waker = Guest(id=2, need=since(20.0, 8))
    run = simulate(get(name), 400, [hog, waker], 20)
    run.step()
    run.step()
    assert waker.persistent == 8


def test_under_balloon_the_needy_waits_until_another_gave() -> None:
    hog, needy = Guest(id=1, need=greedy, budget=400, gives=1), Guest(id=2, need=since(5.0, 500), budget=100)
    simulate(get("balloon"), 1000, [hog, needy], 200)
    grew = [second for second, ram in enumerate(needy.ram_at) if ram > 100]
    gave = [second for second, ram in enumerate(hog.ram_at) if ram < 400]
    assert grew
    assert grew[0] >= gave[0] > 5  # asked when it began to be in need, a tick before
    assert all(a + b <= 500 for a, b in zip(hog.ram_at, needy.ram_at, strict=True))
    assert needy.ram_at[-1] == pytest.approx(250, rel=0.1)
    assert hog.at[-1] == needy.at[-1] == 0


def test_under_balloon_a_deaf_guest_leaves_the_needy_with_nothing() -> None:
    deaf, needy = Guest(id=1, need=until(0.0, 0), budget=400, gives=0), Guest(id=2, need=greedy, budget=100)
    simulate(get("balloon"), 1000, [deaf, needy], 60)
    assert set(needy.ram_at) == {100}


@pytest.mark.parametrize("name", ["fixed", "weighted", "idle-tax"])
def test_a_deaf_hog_keeps_what_it_has_and_the_other_gives(name: str) -> None:
    deaf, hog, late = Guest(id=1, need=greedy, gives=0), Guest(id=2, need=greedy), Guest(id=3, need=since(20.0, 100))
    simulate(get(name), 600, [deaf, hog, late], 60)
    assert deaf.at == sorted(deaf.at)
    assert deaf.at[-1] == deaf.at[19]
    assert late.at[-1] == pytest.approx(100, rel=0.05)


def test_dry_run_shows_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(()) == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if ": extents" in line] == list(NAMES)
