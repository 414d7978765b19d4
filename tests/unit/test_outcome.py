# SPDX-License-Identifier: Apache-2.0
"""Outcomes: truth values, and codes that agree with the native module's."""

from __future__ import annotations

from tmem import _core
from tmem.outcome import OUTCOMES, STORED, Reason, Refused, Stored, code_of


def test_reasons_have_the_native_names_and_places() -> None:
    assert [reason.counter for reason in Reason] == list(_core.REASONS)
    assert [int(reason) for reason in Reason] == list(range(1, len(Reason) + 1))


def test_outcomes_are_true_or_false_and_compare() -> None:
    assert Stored()
    assert not Refused(Reason.FROZEN)
    assert Refused(Reason.FROZEN) == Refused(Reason.FROZEN) != Refused(Reason.STORE_FULL)
    assert OUTCOMES[STORED] == Stored()
    assert all(OUTCOMES[reason] == Refused(reason) for reason in Reason)


def test_a_backend_may_answer_loosely() -> None:
    assert [code_of(answer) for answer in (Stored(), True, 1)] == [STORED] * 3
    assert [code_of(answer) for answer in (False, None, Refused())] == [int(Reason.UNWILLING)] * 3
    assert code_of(Refused(Reason.SWAP_FULL)) == int(Reason.SWAP_FULL)
