# SPDX-License-Identifier: Apache-2.0
"""Deduplication as its user meets it: the switch, what it costs and saves, and that every page stays its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tmem
from tmem import Host, Memory, Pool

PAGE = 4096


def words(pages: int, seed: int = 1) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pages that pack to a part and are all different."""
    data = np.random.default_rng(seed).integers(0, 2**20, (pages, PAGE // 8), dtype=np.int64)
    return data.view(np.uint8)


def put_copies(pool: Pool, data: np.ndarray[Any, Any], copies: int) -> None:
    for copy in range(copies):
        assert not pool.put_many(copy, range(len(data)), data).any()


def assert_copies(pool: Pool, data: np.ndarray[Any, Any], copies: int) -> None:
    into = np.empty_like(data)
    for copy in range(copies):
        assert pool.get_many(copy, range(len(data)), into).all()
        assert (into == data).all()
        into[:] = 0


def test_copies_are_kept_once_and_counted() -> None:
    host, data = Host("64M"), words(200)
    pool = Pool(host=host, dedup="on")
    put_copies(pool, data, 5)
    stats = host.stats()
    assert (stats.pages, stats.shared_pages, stats.dedup_hashed, stats.dedup_found) == (1000, 1000, 1000, 800)
    assert stats.saved_bytes == 4 * stats.slot_bytes
    assert (stats.dedup_all, stats.dedup_failed, pool.stats().dedup_all) == (1, 0, True)
    assert stats.dedup_ns > 0
    assert 0 < stats.dedup_bytes < stats.footprint
    assert host.guests()["default"].charge == stats.slot_bytes + 1000 * tmem.host.PAGE_METADATA
    assert_copies(pool, data, 5)
    assert pool.check() == []


def test_last_copy_costs_what_one_page_costs() -> None:
    data = words(100)
    charges = []
    for dedup, copies in (("on", 4), ("off", 1)):
        host = Host("64M")
        pool = Pool(host=host, dedup=dedup)
        put_copies(pool, data, copies)
        for copy in range(1, copies):
            assert pool.flush_object(copy) == len(data)
        stats = host.stats()
        charges.append((host.guests()["default"].charge, stats.slot_bytes, stats.packed_pages, stats.shared_pages))
        assert_copies(pool, data, 1)
        assert pool.check() == []
    assert charges[0] == charges[1]


def test_off_looks_nothing_up() -> None:
    host, data = Host("64M"), words(100)
    pool = Pool(host=host, dedup="off")
    put_copies(pool, data, 3)
    stats = host.stats()
    assert (stats.shared_pages, stats.saved_bytes, stats.dedup_hashed, stats.dedup_bytes) == (0, 0, 0, 0)
    assert not pool.stats().dedup_all


def test_auto_samples_until_copies_come_and_again_when_they_stop() -> None:
    host = Host("64M")
    pool = Pool(host=host)
    pages = words(4096)
    put_copies(pool, pages, 1)
    alone = host.stats()
    assert 0 < alone.dedup_hashed < len(pages) // 4
    assert (alone.dedup_all, alone.dedup_found) == (0, 0)
    put_copies(pool, pages, 4)
    many = host.stats()
    assert (many.dedup_all, pool.stats().dedup_all) == (1, True)
    assert many.shared_pages > len(pages)
    assert_copies(pool, pages, 4)
    for seed in range(2, 6):
        put_copies(pool, words(4096, seed), 1)
    assert host.stats().dedup_all == 0
    assert pool.check() == []


def test_two_guests_share_nothing() -> None:
    host, data = Host("64M"), words(100)
    pools = [Pool(host=host, guest=name, dedup="on") for name in ("one", "two")]
    for pool in pools:
        put_copies(pool, data, 1)
    assert host.stats().shared_pages == 0
    guests = host.guests()
    assert guests["one"].charge == guests["two"].charge
    pools[0].destroy()
    assert_copies(pools[1], data, 1)
    assert host.check() == []


def test_put_over_a_copy_changes_no_other() -> None:
    host, data = Host("64M"), words(50)
    pool = Pool(host=host, dedup="on")
    put_copies(pool, data, 3)
    changed = data.copy()
    changed[:, 17] ^= 1
    assert not pool.put_many(1, range(len(data)), changed).any()
    assert pool.get(1, 3) == changed[3].tobytes()
    assert (pool.get(0, 3), pool.get(2, 3)) == (data[3].tobytes(), data[3].tobytes())
    assert host.stats().shared_pages == 100
    assert pool.check() == []


def test_child_and_parent_have_their_own() -> None:
    host, data = Host("64M"), words(100)
    pool = Pool(host=host, dedup="on")
    put_copies(pool, data, 3)
    child = os.fork()
    if child == 0:
        try:
            pool.flush_object(0)
            put_copies(pool, words(100, 2), 2)
            assert_copies(pool, words(100, 2), 2)
            assert pool.get(2, 9) == data[9].tobytes()
            assert pool.check() == []
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is to know
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert_copies(pool, data, 3)
    assert pool.check() == []


@pytest.mark.parametrize("dedup", ["yes", "", "ON"])
def test_unknown_switch_is_refused(dedup: str) -> None:
    with pytest.raises(ValueError, match="auto, on or off"):
        Pool(host=Host("2M"), dedup=dedup)
    with pytest.raises(ValueError, match="auto, on or off"):
        Memory("16M", swap="none", dedup=dedup)


@pytest.mark.parametrize("dedup", ["on", "off"])
def test_arrays_with_the_same_data_share_the_store(dedup: str) -> None:
    rows = words(2048)
    with Memory("48M", swap="none", dedup=dedup) as memory:
        arrays = [memory.array(rows) for _ in range(10)]
        stats = memory.stats()
        if dedup == "on":
            assert stats.store_shared > 2 * 2048
            assert stats.store_saved > 0
            assert stats.dedup_found >= stats.store_shared // 2
            assert stats.dedup_all == 1
        else:
            assert (stats.store_shared, stats.dedup_hashed) == (0, 0)
        arrays[3][:] ^= 255
        for n, array in enumerate(arrays):
            assert (array == (rows ^ 255 if n == 3 else rows)).all()
        assert memory.check() == []
        del array, arrays


def test_saved_copies_come_back_each(tmp_path: Path) -> None:
    host, data = Host("64M"), words(60)
    with Pool(host=host, dedup="on", name="twins") as pool:
        put_copies(pool, data, 3)
        assert pool.save(tmp_path / "pool") == 180
    with Pool.restore(tmp_path / "pool", host=host) as again:
        assert_copies(again, data, 3)
        assert again.check() == []
