# SPDX-License-Identifier: Apache-2.0
"""A budget that changes under live arrays, and stored pages that come back to RAM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tmem

MIB = 1 << 20
Maker = Callable[..., tmem.Memory]


def _taken(memory: tmem.Memory) -> int:
    found = memory.stats()
    return found.resident + found.standby + found.free_frames + found.store_bytes + found.metadata


@pytest.fixture
def wide(make: Maker) -> tmem.Memory:
    return make("64M", swap="256M", background=False)


def test_a_smaller_budget_holds_and_a_larger_one_is_used(wide: tmem.Memory) -> None:
    with wide as memory:
        big = memory.array(np.arange(96 * MIB // 8))
        for ram in (24, 64, 16, 40):
            memory.resize(f"{ram}M")
            assert memory.ram == memory.stats().ram == ram * MIB
            assert _taken(memory) <= ram * MIB
            np.testing.assert_array_equal(big, np.arange(big.size))
            assert _taken(memory) <= ram * MIB
        assert memory.check() == []
        del big


def test_plain_memory_begins_paging_when_its_budget_shrinks(wide: tmem.Memory) -> None:
    with wide as memory:
        array = memory.array(np.arange(40 * MIB // 8))
        assert not memory.stats().armed
        memory.resize("20M")
        assert memory.stats().armed
        assert _taken(memory) <= 20 * MIB
        np.testing.assert_array_equal(array, np.arange(array.size))
        del array


def test_resize_is_refused_with_the_budget_as_it_was(wide: tmem.Memory) -> None:
    with wide as memory:
        for wrong in ("15M", 0, "nonsense", 1 << 60):
            with pytest.raises(tmem.SizeError):
                memory.resize(wrong)
        assert memory.ram == 64 * MIB
    with pytest.raises(tmem.ClosedError, match="make a new Memory"):
        memory.resize("32M")


def test_unstore_brings_stored_pages_back_where_there_is_room(wide: tmem.Memory) -> None:
    with wide as memory:
        memory.resize("16M")
        big = memory.array(np.random.default_rng(1).integers(0, 1 << 20, 40 * MIB // 8))
        expected = big.copy()
        assert memory.unstore("8M") <= 8 * MIB
        before = memory.stats()
        memory.resize("64M")
        assert memory.unstore("1M") == MIB
        after = memory.stats()
        assert after.store_pages == before.store_pages - 256
        assert memory.unstore("64M") > 0
        after = memory.stats()
        assert after.faults == before.faults
        assert after.swap_loads == before.swap_loads
        assert after.resident > before.resident
        assert _taken(memory) <= 64 * MIB
        np.testing.assert_array_equal(big, expected)
        assert memory.check() == []
        del big


def test_unstore_sends_nothing_out_of_a_full_budget(wide: tmem.Memory) -> None:
    with wide as memory:
        memory.resize("16M")
        big = memory.array(np.random.default_rng(1).integers(0, 1 << 20, 40 * MIB // 8))
        before = memory.stats()
        memory.unstore("16M")
        assert memory.stats().evictions == before.evictions
        assert _taken(memory) <= 16 * MIB
        del big


def test_unstore_of_plain_memory_has_nothing_to_do(wide: tmem.Memory) -> None:
    with wide as memory:
        array = memory.zeros(1000)
        assert memory.unstore("16M") == 0
        del array
