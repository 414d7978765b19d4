# SPDX-License-Identifier: Apache-2.0
"""What a policy sees of a guest: what it wants is what it was refused lately, and is forgotten in time."""

from __future__ import annotations

from typing import Any

from tmem.daemon.guest import Guest
from tmem.daemon.peer import Peer

MIB = 1 << 20


class Silent:
    """A connection to nobody."""

    congested = False

    def send(self, *_: Any, **__: Any) -> None: ...


def guest(now: float = 100.0) -> Guest:
    link: Any = Silent()
    return Guest(1, "one", Peer(0, 0, 0, -1), link, now)


def test_refusals_add_up_and_grants_take_off() -> None:
    one = guest()
    for moment in (100.0, 100.4, 101.2):
        one.went(8, 0, moment)
    assert one.want(101.5) == 24
    one.went(0, 5, 101.5)
    assert one.want(101.6) == 19
    assert one.view(MIB, 101.6).want == 19
    one.went(4, 2, 101.7)
    assert one.want(101.7) == 21
    one.went(0, 100, 101.8)
    assert one.want(101.8) == 0


def test_what_was_refused_is_forgotten_after_one_to_two_seconds() -> None:
    one = guest()
    one.went(8, 0, 100.9)
    assert one.view(MIB, 101.9).want == 8
    assert one.view(MIB, 102.0).want == 0
    one.went(1, 0, 200.0)
    assert one.want(200.0) == 1
    assert one.want(300.0) == 0


def test_a_view_is_made_anew_only_when_something_changed() -> None:
    one = guest()
    one.went(3, 0, 100.1)
    first = one.view(MIB, 100.2)
    assert one.view(MIB, 100.3) is first
    assert one.view(MIB, 101.5) == first  # forgotten by half, which is all the other half
    one.weight = 5
    one.changed()
    assert one.view(MIB, 101.6).weight == 5


def test_who_gave_nothing_is_left_alone_and_who_gives_is_not() -> None:
    one = guest()
    assert one.ask(4, MIB, 100.0)
    assert not one.ask(4, MIB, 100.1)
    assert one.shrunk(1, 0, 100.2)
    assert one.view(MIB, 100.3).deaf
    assert not one.ask(4, MIB, 100.3)
    one.gave(1)
    assert not one.view(MIB, 100.4).deaf
    assert one.ask(4, MIB, 100.5)
    assert one.overdue(200.0, 5.0) == 1
    assert one.view(MIB, 200.1).deaf
    assert not one.view(MIB, 205.1).deaf  # the view follows the clock
