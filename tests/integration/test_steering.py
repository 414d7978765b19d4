# SPDX-License-Identifier: Apache-2.0
"""Evict, prefetch, pin, advise, close: what a caller may ask, and how it is refused."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tmem
from tmem.counters import published

RAM = 16 << 20


def _big(memory: tmem.Memory, times: int = 3) -> Any:
    """Return an array that is `times` the budget, so that the Memory pages."""
    made = memory.empty(times * RAM // 8, "i8")
    made[:] = np.arange(made.size)
    return made


def test_evict_sends_pages_out_and_prefetch_brings_them_back(memory: tmem.Memory) -> None:
    big = _big(memory)
    part = big[: 1 << 18]
    memory.prefetch(part)
    gone = memory.evict(part)
    assert gone > 0
    before = memory.stats().faults
    memory.prefetch(part)
    assert memory.stats().resident >= part.nbytes // 2
    np.testing.assert_array_equal(part, np.arange(part.size))
    assert memory.stats().faults - before < part.nbytes // 4096


def test_pin_keeps_pages_while_others_come_and_go(memory: tmem.Memory) -> None:
    big = _big(memory)
    part = big[1 << 16 : 1 << 18]
    with memory.pin(part) as same:
        assert same is part
        assert memory.stats().pinned >= part.nbytes
        before = memory.stats().faults
        assert part.sum() == np.arange(1 << 16, 1 << 18).sum()
        assert memory.stats().faults == before
        memory.evict(part)
        assert part.sum() == np.arange(1 << 16, 1 << 18).sum()
        assert memory.stats().faults == before
    assert memory.stats().pinned == 0


def test_pin_beyond_the_budget_is_refused_and_changes_nothing(memory: tmem.Memory) -> None:
    big = _big(memory)
    with pytest.raises(tmem.BudgetError, match="budget"), memory.pin(big):
        pytest.fail("pinned more than there is")
    assert memory.stats().pinned == 0
    np.testing.assert_array_equal(big[:100], np.arange(100))


def test_pin_lets_go_when_its_block_raises(memory: tmem.Memory) -> None:
    big = _big(memory)
    with pytest.raises(ZeroDivisionError), memory.pin(big[:5000]):
        raise ZeroDivisionError
    assert memory.stats().pinned == 0


def test_pin_twice_is_let_go_twice(memory: tmem.Memory) -> None:
    part = _big(memory)[:4096]
    with memory.pin(part):
        with memory.pin(part):
            pass
        assert memory.stats().pinned > 0
    assert memory.stats().pinned == 0


@pytest.mark.parametrize("advice", ["normal", "sequential", "random", "cold", "willneed"])
def test_advise_changes_no_value(memory: tmem.Memory, advice: Any) -> None:
    big = _big(memory)
    memory.advise(big, advice)
    assert big[::4096].sum() == np.arange(0, big.size, 4096).sum()


def test_advise_of_a_misspelt_word_lists_the_words(memory: tmem.Memory) -> None:
    with pytest.raises(ValueError, match="normal, sequential, random, cold, willneed, not 'sequental'"):
        memory.advise(memory.zeros(5), "sequental")  # type: ignore[arg-type]


def test_a_read_only_view_can_be_steered(memory: tmem.Memory) -> None:
    view = _big(memory)[::-3]
    view.flags.writeable = False
    memory.evict(view)
    memory.prefetch(view)
    with memory.pin(view[:1000]):
        assert view[0] == view.base.size - 1
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_an_array_of_another_memory_is_refused(memory: tmem.Memory) -> None:
    plain = np.zeros(100_000)
    for call in (memory.prefetch, memory.evict, lambda a: memory.advise(a, "cold")):
        with pytest.raises(ValueError, match="copy it there first"):
            call(plain)
    with pytest.raises(ValueError, match="copy it there first"), memory.pin(plain):
        pytest.fail("pinned what is not its own")
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        memory.prefetch([1, 2])  # type: ignore[arg-type]


def test_close_counts_live_arrays_and_keeps_them_valid(memory: tmem.Memory) -> None:
    big = _big(memory)
    other = memory.zeros(10)
    with pytest.warns(ResourceWarning, match="2 array"):
        memory.close()
    memory.close()  # again: no warning, no error
    assert memory.closed
    np.testing.assert_array_equal(big[::9999], np.arange(big.size)[::9999])
    other[:] = 1
    assert memory.stats().mapped > 0
    del big, other
    gc.collect()
    assert memory.stats().faults > 0  # what it was at the end


def test_a_closed_memory_makes_and_steers_nothing(memory: tmem.Memory) -> None:
    made = memory.zeros(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        memory.close()
    makers: list[Callable[[], object]] = [
        lambda: memory.zeros(3),
        lambda: memory.empty(0),
        lambda: memory.array([1]),
        lambda: memory.full(1, 2),
    ]
    for call in makers:
        with pytest.raises(tmem.ClosedError, match="make a new Memory"):
            call()
    for steer in (memory.evict, memory.prefetch):
        with pytest.raises(tmem.ClosedError, match="closed"):
            steer(made)
    with pytest.raises(tmem.ClosedError), memory:
        pytest.fail("entered a closed Memory")
    assert "closed" in repr(memory)


def test_the_context_manager_closes(make: Any) -> None:
    with make() as memory:
        assert memory.zeros(3).sum() == 0
    assert memory.closed


def test_an_array_outlives_its_memory(make: Any) -> None:
    memory = make()
    made = memory.full(3 * RAM // 8, 5.0)
    core = memory._core
    del memory
    gc.collect()
    assert made.min() == made.max() == 5.0
    assert core.stats()["mapped"] >= made.nbytes


def test_threads_share_a_memory(memory: tmem.Memory) -> None:
    sums: dict[int, int] = {}

    def work(number: int) -> None:
        made = memory.empty(RAM // 8, "i8")
        for turn in range(3):
            made[:] = number + turn
            sums[number] = int(made.sum()) - made.size * turn

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == {number: number * (RAM // 8) for number in range(4)}


def test_repr_and_stats_tell_name_and_budget(make: Any, entry: str) -> None:
    memory = make("32M", name="frames of reference")
    assert repr(memory) == f"<tmem.Memory 'frames of reference' ram=32.0 MiB faults={entry}>"
    stats = memory.stats()
    assert (stats.name, stats.ram, stats.pid, stats.entry) == ("frames of reference", 32 << 20, os.getpid(), entry)


def test_published_counters_are_seen_from_outside(make: Any) -> None:
    memory = make(name="seen")
    made = memory.zeros(1 << 20)
    found = [stats for stats in published(os.getpid()) if stats.name == "seen"]
    assert len(found) == 1
    assert found[0].ram == RAM
    assert found[0].mapped >= made.nbytes
