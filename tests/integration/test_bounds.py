# SPDX-License-Identifier: Apache-2.0
"""What the pager does for fixed work stays within committed bounds. Counts, not times: no noise can sway them.

`make bounds` shows old and new figures; with `RENEW=--renew` it commits to new ones, where a change is meant to cost.
"""

from __future__ import annotations

import pytest

from tools import bounds


def test_the_fault_function_takes_no_more_instructions_than_it_did() -> None:
    committed = bounds.load()
    try:
        measured, compiler = bounds.instructions(), bounds.compiler()
    except bounds.MissingError as missing:
        pytest.skip(f"instructions cannot be counted here: {missing}")
    same = compiler in committed["compiler"]
    room = bounds.ROOM_INSTRUCTIONS if same else bounds.ROOM_INSTRUCTIONS_ELSEWHERE
    assert bounds.broken(measured, committed["instructions"], room=room) == []


def test_a_fixed_piece_of_work_moves_no_more_pages_than_it_did(entries: list[str]) -> None:
    if "signal" not in entries:
        pytest.skip("the signal entry cannot be used here")
    measured = bounds.counters()
    told = {}
    for phase, committed in bounds.load().items():
        if phase not in ("compiler", "instructions"):
            room, plus = bounds.ROOM_COUNTS, bounds.ROOM_PAGES
            told[phase] = bounds.broken(measured.get(phase, {}), committed, room=room, plus=plus)
    assert {phase: lines for phase, lines in told.items() if lines} == {}


def test_a_figure_that_grew_is_told_and_one_that_shrank_is_not() -> None:
    committed = {"moves": 1000.0, "clean_evictions": 1000.0, "gone": 1.0}
    told = bounds.broken({"moves": 1021, "clean_evictions": 979}, committed, room=0.02)
    assert [line.split(":")[0] for line in told] == ["moves", "clean_evictions", "gone"]
    assert bounds.broken({"moves": 1020, "clean_evictions": 981, "gone": 0}, committed, room=0.02) == []
