# SPDX-License-Identifier: Apache-2.0
"""How one budget is shared between pages in use, the page store and the tables (law 13)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tmem

RAM = 16 << 20


def _packable(seed: int, size: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, size // 8, dtype="u1").repeat(8)


def test_store_leaves_room_for_pages_in_use(make: Any) -> None:
    memory = make(RAM, swap="1G")
    arrays = [memory.zeros(8 << 20, "u1") for _ in range(24)]
    for seed, array in enumerate(arrays):
        array[:] = _packable(seed, array.size)
    stats = memory.stats()
    assert stats.store_pages > 0
    assert stats.resident + stats.standby + stats.free_frames >= RAM // 5
    with memory.pin(arrays[0][: 1 << 20]):
        assert memory.stats().pinned == 1 << 20
    for seed, array in enumerate(arrays):
        assert (array == _packable(seed, array.size)).all()


def test_arrays_whose_tables_alone_would_fill_the_budget_are_refused(make: Any) -> None:
    memory = make(RAM, swap="64M")
    kept = memory.full(1 << 20, 7, "u1")
    with pytest.raises(tmem.BudgetError, match="tables"):
        memory.zeros(RAM * 100, "u1")
    assert (kept == 7).all()
    assert memory.zeros(RAM * 8, "u1")[-1] == 0
