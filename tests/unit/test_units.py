# SPDX-License-Identifier: Apache-2.0
"""Sizes in and out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.errors import SizeError
from tmem.units import LARGEST, format_size, parse_size

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("4096B", 4096),
        ("2K", 2048),
        ("2k", 2048),
        ("64M", 64 << 20),
        ("2G", 2 * GIB),
        ("1.5G", 3 * GIB // 2),
        (".5G", GIB // 2),
        ("1T", 1 << 40),
        ("3KiB", 3072),
        ("3 MiB", 3 << 20),
        ("1GiB", GIB),
        ("5kB", 5000),
        ("5MB", 5_000_000),
        ("2GB", 2_000_000_000),
        ("1TB", 10**12),
        (" 7M ", 7 << 20),
        (4096, 4096),
        (2e9, 2_000_000_000),
        (np.int64(1 << 20), 1 << 20),
    ],
)
def test_parse_size_of_good_text_gives_bytes(text: object, count: int) -> None:
    assert parse_size(text) == count  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "is not a size"),
        ("lots", "is not a size"),
        ("-1G", "is not a size"),
        ("1e9", "unknown unit|is not a size"),
        ("2GG", "unknown unit 'GG'"),
        ("2X", "unknown unit 'X'"),
        ("2 gb", "'2G' for 2147483648 bytes or '2GB' for 2000000000 bytes"),
        ("1KB", "'1K' for 1024 bytes or '1kB' for 1000 bytes"),
        ("1Gib", "two ways"),
        ("nan", "is not a size"),
        ("inf", "is not a size"),
        ("1_000", "is not a size"),
        ("²G", "is not a size"),
        ("9" * 5000, "is not a size"),
        ("0", "more than zero"),
        ("0G", "more than zero"),
        ("0.0000001K", "more than zero"),
        (0, "more than zero"),
        (-5, "more than zero"),
        (-1.0, "more than zero"),
        (math.nan, "whole number"),
        (math.inf, "whole number"),
        (1.5, "whole number"),
        (True, "must be a number"),
        (None, "must be a number"),
        ([], "must be a number"),
        (b"2G", "must be a number"),
        ("2000T", "more than any machine"),
        (1 << 63, "more than any machine"),
        ("50%", "has no meaning"),
        ("auto", "has no meaning"),
    ],
)
def test_parse_size_of_bad_text_says_why(bad: object, reason: str) -> None:
    with pytest.raises(SizeError, match=reason):
        parse_size(bad)  # type: ignore[arg-type]


def test_parse_size_of_a_share_reads_the_whole() -> None:
    assert parse_size("50%", whole=8 * GIB) == 4 * GIB
    assert parse_size("auto", whole=8 * GIB) == 4 * GIB
    assert parse_size("12.5%", whole=8 * GIB) == GIB
    assert parse_size("100%", whole=8 * GIB) == 8 * GIB


@pytest.mark.parametrize("bad", ["0%", "101%", "1000%"])
def test_parse_size_of_a_wrong_share_says_the_whole(bad: str) -> None:
    with pytest.raises(SizeError, match=r"at most 100% of 8\.0 GiB"):
        parse_size(bad, whole=8 * GIB)


def test_parse_size_names_what_it_is_of() -> None:
    with pytest.raises(SizeError, match=r"^swap '2 gb'"):
        parse_size("2 gb", what="swap")


@given(st.integers(1, LARGEST - 1))
def test_parse_size_of_a_plain_number_is_exact(count: int) -> None:
    assert parse_size(str(count)) == parse_size(count) == parse_size(f"{count}B") == count


@given(st.text(max_size=80))
def test_parse_size_of_any_text_gives_bytes_or_size_error(text: str) -> None:
    try:
        assert 0 < parse_size(text, whole=GIB) < LARGEST
    except SizeError:
        return


@given(st.integers(0, LARGEST - 1))
def test_format_size_round_trips_within_its_digits(count: int) -> None:
    shown = format_size(count)
    if count:
        try:
            back = parse_size(shown)
        except SizeError:  # 1024.0 TiB rounds up to the first size that is absurd
            assert count > LARGEST * 0.999
        else:
            assert abs(back - count) <= max(1, count * 0.051)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (-2048, "-2.0 KiB"), (3 * GIB // 2, "1.5 GiB")]
)
def test_format_size_uses_binary_units(count: int, text: str) -> None:
    assert format_size(count) == text
