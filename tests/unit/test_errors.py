# SPDX-License-Identifier: Apache-2.0
"""The tree of exceptions."""

from __future__ import annotations

import pytest

import tmem
from tmem import errors


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (tmem.SizeError, ValueError),
        (tmem.BudgetError, MemoryError),
        (tmem.ClosedError, ValueError),
        (tmem.KernelUnsupported, OSError),
        (tmem.SwapError, OSError),
    ],
)
def test_each_error_is_a_tmem_error_and_its_builtin(kind: type[Exception], builtin: type[Exception]) -> None:
    error = kind("what, why, next step")
    assert isinstance(error, tmem.TmemError)
    assert isinstance(error, builtin)
    assert str(error) == "what, why, next step"


def test_an_os_error_keeps_its_number() -> None:
    error = tmem.SwapError(28, "the directory is full: name another")
    assert error.errno == 28
    assert "name another" in str(error)


def test_warning_of_a_notice_goes_by_its_words() -> None:
    assert errors.warning_of("the RAM budget is overshot: free arrays") is tmem.OvershootWarning
    assert errors.warning_of("the swap device is full: free arrays") is tmem.OvershootWarning
    assert errors.warning_of("a thread cannot be covered by the system call guard") is tmem.GuardWarning
    assert errors.warning_of("anything else") is tmem.TmemWarning
    assert issubclass(tmem.TmemWarning, RuntimeWarning)


def test_public_names_exist_and_are_sorted() -> None:
    assert sorted(tmem.__all__, key=lambda name: (not name.isupper(), name)) == tmem.__all__
    assert all(hasattr(tmem, name) for name in tmem.__all__)
