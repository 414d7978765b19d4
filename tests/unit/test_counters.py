# SPDX-License-Identifier: Apache-2.0
"""The derived numbers, and what a reading becomes."""

from __future__ import annotations

import json

from tmem.counters import Stats, make_stats, published


def test_make_stats_sorts_counters_into_names() -> None:
    stats = make_stats({"ram": 100, "refused_full": 3, "brand_new": 7, "name": "x"})
    assert stats.ram == 100
    assert stats.name == "x"
    assert stats.refused == {"full": 3}
    assert stats.other == {"brand_new": 7}
    assert stats.outside > 0  # this interpreter has memory of its own


def test_ratio_is_pages_over_the_bytes_they_take() -> None:
    assert Stats(store_pages=4, store_bytes=4096).ratio == 4.0
    assert Stats().ratio == 0.0


def test_share_is_arrays_against_all() -> None:
    assert Stats(mapped=300, outside=100).share == 0.75
    assert Stats().share == 0.0


def test_used_counts_all_that_the_budget_counts() -> None:
    assert Stats(resident=1, standby=2, free_frames=4, store_bytes=8, metadata=16, swap_used=32).used == 31


def test_as_dict_is_json() -> None:
    document = json.loads(json.dumps(make_stats({"refused_full": 1}).as_dict()))
    assert {"ratio", "share", "used", "faults", "refused"} <= set(document)


def test_published_of_a_process_without_memories_is_empty() -> None:
    assert list(published((1 << 22) - 1)) == []
