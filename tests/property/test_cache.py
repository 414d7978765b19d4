# SPDX-License-Identifier: Apache-2.0
"""A small cache behaves as a dict that may forget, by itself and on the room that a Memory's arrays leave.

Laws 3, 6, 11 (accounting) and 13, over random histories: every hit is the value that the model has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tmem import Cache, Memory

MIB = 1 << 20
# Equal ones, some that begin or end alike, one that is long.
KEYS = ("", b"", 0, 0.0, False, None, (), "a", ("a",), ("a", ""), ("", "a"), 1, True, 2**70, "x" * 9000, "x" * 9001)

keys = st.one_of(st.sampled_from(KEYS), st.integers(0, 300))
sizes = st.one_of(
    st.integers(0, 600), st.sampled_from([4000, 4060, 4072, 4096, 8192]), st.integers(0, 150_000), st.just(700_000)
)
seeds = st.integers(0, 2**20)


def named(key: Any) -> tuple[str, Any]:
    """Return what a dict tells apart as a cache does."""
    return type(key).__name__, key


def make(seed: int, size: int) -> bytes:
    random = np.random.default_rng(seed)
    return random.bytes(size) if seed % 2 else (seed.to_bytes(4, "little") * (size // 4 + 1))[:size]


class Mapped(RuleBasedStateMachine):
    lender = False

    @initialize()
    def begin(self) -> None:
        self.memory = Memory("16M", swap="64M") if self.lender else None
        self.cache = Cache("4M" if self.lender else "1M", memory=self.memory)
        self.known: dict[tuple[str, Any], bytes] = {}
        self.counts = {"hits": 0, "misses": 0, "put": 0}
        self.arrays: list[tuple[Any, int]] = []

    def is_known(self, key: Any, value: bytes | None) -> None:
        self.counts["misses" if value is None else "hits"] += 1
        if value is None:
            self.known.pop(named(key), None)  # law 4: it is gone until it is put again
        else:
            assert value == self.known.get(named(key)), f"{key!r}: another value came back"

    @rule(key=keys, seed=seeds, size=sizes)
    def put(self, key: Any, seed: int, size: int) -> None:
        value = make(seed, size)
        self.cache[key] = value
        self.counts["put"] += 1
        self.known[named(key)] = value

    @rule(first=st.integers(0, 200), count=st.integers(1, 100), seed=seeds, size=st.integers(0, 20_000))
    def put_many(self, first: int, count: int, seed: int, size: int) -> None:
        for n in range(count):
            self.put(first + n, seed + n, size)

    @rule(key=keys)
    def get(self, key: Any) -> None:
        there = key in self.cache
        value = self.cache.get(key)
        assert there == (value is not None)
        self.is_known(key, value)

    @rule(key=keys)
    def pop(self, key: Any) -> None:
        self.is_known(key, self.cache.pop(key, None))
        self.known.pop(named(key), None)
        assert key not in self.cache

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        if key in self.cache:
            assert named(key) in self.known
            del self.cache[key]
        else:
            with pytest.raises(KeyError):
                del self.cache[key]
        self.known.pop(named(key), None)

    @rule()
    def popitem(self) -> None:
        if len(self.cache):
            key, value = self.cache.popitem()
            self.is_known(key, value)
            self.known.pop(named(key), None)

    @rule()
    def walk(self) -> None:
        entries = list(self.cache.items())
        assert len({named(key) for key, _ in entries}) == len(entries) == len(self.cache)
        assert all(value == self.known.get(named(key)) for key, value in entries)
        self.known = {named(key): value for key, value in entries}

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.known.clear()
        assert len(self.cache) == 0

    @precondition(lambda self: self.memory is not None and len(self.arrays) < 6)
    @rule(seed=seeds, pages=st.integers(100, 2000))
    def allocate(self, seed: int, pages: int) -> None:
        assert self.memory is not None
        array = self.memory.zeros(pages * 512, "i8")
        array[:] = np.arange(array.size) * seed
        self.arrays.append((array, seed))

    @precondition(lambda self: self.arrays)
    @rule(at=st.integers(0, 5))
    def release(self, at: int) -> None:
        array, seed = self.arrays.pop(at % len(self.arrays))
        assert (array == np.arange(array.size) * seed).all()

    @invariant()
    def sound(self) -> None:
        stats = self.cache.stats()
        assert (stats.hits, stats.misses) == (self.counts["hits"], self.counts["misses"])
        assert stats.stored + stats.refused == self.counts["put"]
        if self.memory is None:
            assert stats.bytes <= stats.limit == stats.max_bytes
        else:
            counted = self.memory.stats()
            assert stats.limit <= stats.max_bytes
            assert stats.bytes <= counted.lent
            assert counted.overshoot == 0

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.walk()
        assert self.cache.check() == []
        self.cache.close()
        if self.memory is not None:
            assert all((array == np.arange(array.size) * seed).all() for array, seed in self.arrays)
            assert self.memory.check() == []
            assert self.memory.stats().lent == 0
            self.arrays.clear()
            self.memory.close()


class Lodging(Mapped):
    lender = True


def _run(machine: type[Mapped], cases: int, steps: int) -> None:
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    limits = settings(max_examples=cases, stateful_step_count=steps, deadline=None, suppress_health_check=quiet)
    run_state_machine_as_test(machine, settings=limits)


@pytest.mark.parametrize("machine", [Mapped, Lodging])
def test_cache_behaves_as_a_dict_that_may_forget(machine: type[Mapped]) -> None:
    _run(machine, 20, 40)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("machine", [Mapped, Lodging])
def test_cache_behaves_as_a_dict_that_may_forget_for_long(machine: type[Mapped]) -> None:
    _run(machine, 150, 60)
