# SPDX-License-Identifier: Apache-2.0
"""One order from end to end: what left the arrays first goes down first, whatever its form, and cold pages are packed tighter."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tmem
from tmem.counters import PAGE

Maker = Callable[..., tmem.Memory]
Bytes = npt.NDArray[np.uint8]

STORED, COLD, SWAP = (tmem.TIERS.index(tier) for tier in ("stored", "cold", "swap"))


def noise(pages: int, seed: int) -> Bytes:
    """Pages that do not compress."""
    return np.random.default_rng(seed).integers(0, 256, (pages, PAGE), np.uint8)


def words(pages: int, seed: int) -> Bytes:
    """Pages that pack to about a third, and tighter when somebody takes the time."""
    random = np.random.default_rng(seed)
    dictionary = random.integers(97, 123, (64, 8), np.uint8)
    return dictionary[random.integers(0, 64, (pages, PAGE // 8))].reshape(pages, PAGE)


def fill(memory: tmem.Memory, pages: Bytes) -> Any:
    """An array with these contents, and its pages out."""
    array = memory.array(pages)
    memory.evict(array)
    return array


@pytest.fixture
def disk(make: Maker, tmp_path: Path) -> tmem.Memory:
    """A Memory with a swap device, whose store is left alone by the background thread."""
    return make(swap=(tmp_path, "256M"), background=False)


def test_an_old_incompressible_page_goes_down_before_a_young_compressible_one(disk: tmem.Memory) -> None:
    old, young = noise(1000, 1), words(8000, 2)
    first = fill(disk, old)
    assert set(tmem.tiers(first)) == {STORED}, "there is room: it waits for its turn"
    second = fill(disk, young)
    down = tmem.tiers(second) == SWAP
    assert 0 < down.sum() < down.size, "the store holds a part of the young pages"
    assert set(tmem.tiers(first)) == {SWAP}, "not one old page is nearer than they"
    edge = int(down.argmin())
    assert not down[edge:].any(), "and of the young ones the oldest went"
    np.testing.assert_array_equal(first, old)
    np.testing.assert_array_equal(second, young)


def test_an_old_compressible_page_goes_down_before_a_young_incompressible_one(disk: tmem.Memory) -> None:
    old, young = words(2000, 1), noise(3500, 2)
    first = fill(disk, old)
    assert set(tmem.tiers(first)) == {STORED}
    second = fill(disk, young)
    near = tmem.tiers(second) == STORED
    assert near.any()
    assert set(tmem.tiers(first)) == {SWAP}, "no page is sent past older ones because it does not shrink"
    np.testing.assert_array_equal(second, young)
    np.testing.assert_array_equal(first, old)


def test_a_page_that_came_back_is_young_again(disk: tmem.Memory) -> None:
    pages = words(2000, 3)
    array = fill(disk, pages)
    again = array[:100]
    assert again.sum() == pages[:100].sum(dtype=np.uint64)
    disk.evict(again)
    others = fill(disk, words(3200, 4))
    tiers = tmem.tiers(array)
    assert (tiers[100:300] == SWAP).all(), "its neighbours went"
    assert not (tiers[:100] == SWAP).any()
    np.testing.assert_array_equal(array, pages)
    assert others.size


def test_without_room_below_nothing_is_lost(make: Maker, tmp_path: Path) -> None:
    memory = make(swap=(tmp_path, "1M"), background=False)
    pages = np.concatenate([noise(500, 1), words(6500, 2)])
    with pytest.warns(tmem.TmemWarning):
        array = memory.array(pages)
        memory.evict(array)
        memory.stats()
    assert memory.stats().swap_used <= 1 << 20
    assert memory.stats().refused["store_full"] > 0
    np.testing.assert_array_equal(array, pages)


def test_settle_packs_tighter_and_every_page_comes_back(make: Maker) -> None:
    memory = make(background=False, swap=None)
    pages = words(4000, 5)
    array = fill(memory, pages)
    before = memory.stats()
    assert (before.store_cold, before.recoded) == (0, 0)
    memory.settle()
    after = memory.stats()
    assert after.store_cold > 3500
    assert after.store_data < before.store_data * 0.9
    assert after.store_mapped < before.store_mapped * 0.95
    assert after.store_mapped - after.store_slots < after.store_mapped / 8, "free slots were gathered"
    assert (tmem.tiers(array) == COLD).sum() == after.store_cold
    memory.settle()
    assert memory.stats().recoded == after.recoded, "once is enough"
    assert memory.check() == []
    np.testing.assert_array_equal(array, pages)


def test_cold_pages_go_down_and_come_back_as_they_are(disk: tmem.Memory) -> None:
    pages = words(4000, 6)
    array = fill(disk, pages)
    disk.settle()
    assert disk.stats().store_cold > 3000
    more = fill(disk, noise(3000, 7))
    tiers = tmem.tiers(array)
    assert (tiers == SWAP).all()
    np.testing.assert_array_equal(array, pages)
    assert more.size


def test_the_background_thread_packs_what_stays_cold(make: Maker) -> None:
    memory = make(swap=None)
    pages = words(4000, 8)
    array = fill(memory, pages)
    names = [Path(f"/proc/self/task/{tid}/comm").read_text().strip() for tid in os.listdir("/proc/self/task")]
    assert names.count("tmem-background") == 1
    end = time.monotonic() + 60
    while memory.stats().store_cold < 3500 and time.monotonic() < end:
        time.sleep(0.2)
    assert memory.stats().store_cold >= 3500
    np.testing.assert_array_equal(array, pages)


def test_tiers_of_plain_memory_and_of_what_is_not_paged(memory: tmem.Memory) -> None:
    small = memory.zeros(10 * PAGE, np.uint8)
    assert tmem.tiers(small).size == 10
    assert set(tmem.tiers(small)) <= {0, 1}
    with pytest.raises(ValueError, match="paged"):
        tmem.tiers(np.zeros(10))


def test_a_forked_child_settles_its_own(make: Maker) -> None:
    memory = make(swap=None, background=False)
    pages = words(4000, 9)
    array = fill(memory, pages)
    memory.settle()
    child = os.fork()
    if child == 0:
        try:
            memory.settle()
            fine = bool((array == pages).all()) and memory.check() == []
            memory.evict(array)
            memory.settle()
            os._exit(0 if fine and bool((array == pages).all()) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(array, pages)
