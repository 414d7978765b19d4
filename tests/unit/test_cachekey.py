# SPDX-License-Identifier: Apache-2.0
"""Keys as bytes: no two alike, and each comes back as it was."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.cachekey import Key, call_key, from_bytes, to_bytes

YES = True

plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.just("\ud800")
)
keys = st.recursive(plain, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8)


def with_types(key: Any) -> Any:
    """Return what tells keys apart that are equal but of other types, or of another sign."""
    if isinstance(key, tuple):
        return ("tuple", *map(with_types, key))
    return type(key).__name__, key, math.copysign(1, key) if isinstance(key, float) else None


@given(keys, keys)
def test_keys_are_alike_only_if_they_are_the_same(one: Any, other: Any) -> None:
    assert with_types(from_bytes(to_bytes(one))) == with_types(one)
    assert (to_bytes(one) == to_bytes(other)) == (with_types(one) == with_types(other))


@pytest.mark.parametrize(
    "apart",
    [
        (1, 1.0, True, "1", b"1", (1,)),
        (0, 0.0, -0.0, False, None, "", b"", ()),
        (("a", "bc"), ("ab", "c"), ("abc",), "abc", (("a", "b"), "c"), ("a", ("b", "c"))),
        (255, -1, 2**64, -(2**64), 128, -128),
    ],
)
def test_what_looks_alike_is_apart(apart: tuple[Any, ...]) -> None:
    assert len({to_bytes(key) for key in apart}) == len(apart)


def test_nan_is_found_again() -> None:
    assert to_bytes(float("nan")) == to_bytes(float("nan"))
    assert math.isnan(from_bytes(to_bytes(float("nan"))))  # type: ignore[arg-type]


def test_a_subclass_counts_as_its_base() -> None:
    point = namedtuple("point", "x y")  # noqa: PYI024 - any will do
    assert to_bytes(point(1, 2)) == to_bytes((1, 2))
    assert to_bytes(np.float64(1.5)) == to_bytes(1.5)  # numpy's is one
    assert to_bytes(np.str_("a")) == to_bytes("a")


@pytest.mark.parametrize("key", [[1], {}, object, object(), np.int64(1), bytearray(b"x"), (1, [2]), {1}, 1j])
def test_what_is_no_key_is_named(key: Any) -> None:
    with pytest.raises(TypeError, match="a key is a str"):
        to_bytes(key)


def test_a_call_has_the_key_of_its_arguments() -> None:
    assert call_key("f", (1, "a"), {"b": 2, "a": 1}) == call_key("f", (1, "a"), {"a": 1, "b": 2})
    different = [
        call_key("f", (1, 2), {}),
        call_key("f", (1,), {"b": 2}),
        call_key("f", ((1, 2),), {}),
        call_key("g", (1, 2), {}),
        call_key("f", (), {"a": 1, "b": 2}),
        call_key("f", (("a", 1), ("b", 2)), {}),
    ]
    assert len({to_bytes(key) for key in different}) == len(different)


def test_types_of_arguments_count_where_asked_for() -> None:
    def key(value: Key, *, typed: bool = False) -> bytes:
        return to_bytes(call_key("f", (value,), {"a": value}, typed=typed))

    assert key(1) == key(1.0) == key(YES)
    assert key((1, (True,))) == key((1.0, (1,)))
    assert key(1.5) != key(1)
    assert key(float("inf")) != key(1)
    assert len({key(1, typed=True), key(1.0, typed=True), key(YES, typed=True)}) == 3


def test_arguments_are_ignored_by_place_and_by_name() -> None:
    ignore: set[int | str] = {0, "verbose"}
    assert call_key("f", (1, 2), {"verbose": True}, ignore=ignore) == call_key("f", (9, 2), {}, ignore=ignore)
    assert call_key("f", (1, 2), {}, ignore=ignore) != call_key("f", (1, 3), {}, ignore=ignore)
