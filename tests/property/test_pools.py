# SPDX-License-Identifier: Apache-2.0
"""Pools of several kinds and guests on one small host behave as dicts that may refuse, and may forget where they said
so.

Laws 1 to 7 and 11, over random histories: single and batched, full, frozen, resized, capped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tmem import Host, Pool, Reason
from tmem.outcome import OUTCOMES

PAGE = 4096
SMALLEST = 1 << 20
GUESTS = ("default", "second")
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"persistent": False},
    {"persistent": False, "exclusive": False, "guest": "second"},
    {"persistent": False, "guest": "second", "raw": False},
    {"raw": False, "guest": "second"},
    {"persistent": False, "exclusive": False, "pack": False},
)
# Ids that differ in one word, and in one bit.
OBJECTS = (0, 1, 1 << 64, 1 << 128, 1 << 191, (1 << 191) | 1)

pools = st.integers(0, len(KINDS) - 1)
objects = st.sampled_from(OBJECTS)
indexes = st.one_of(st.integers(0, 200), st.sampled_from([63, 64, 2**32, 2**63, 2**64 - 1]))
seeds = st.integers(0, 2**20)
looks = st.sampled_from(["same", "packs", "half", "noise"])


def make(look: str, seed: int, pages: int) -> bytes:
    random = np.random.default_rng(seed)
    if look == "same":
        return np.repeat(random.integers(0, 2**63, pages), PAGE // 8).tobytes()
    if look == "packs":
        return (np.arange(pages * PAGE // 8) // 9 + seed).tobytes()
    if look == "half":
        whole = random.integers(0, 255, (pages, PAGE), dtype=np.uint8)
        whole[:, PAGE // 2 :] = 7
        return whole.tobytes()
    return random.bytes(pages * PAGE)


class Pools(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.host = Host(SMALLEST)
        self.pools = [Pool(host=self.host, **kind) for kind in KINDS]
        self.known: list[dict[tuple[int, int], bytes]] = [{} for _ in KINDS]
        self.counts = {"puts": 0, "gets": 0}

    def offered(self, at: int, handle: tuple[int, int], page: bytes, code: int) -> None:
        """Law 3: whatever the answer, the old page is gone."""
        self.known[at].pop(handle, None)
        self.counts["puts"] += 1
        if code == 0:
            self.known[at][handle] = page
        assert code not in {Reason.NO_AREA, Reason.OUT_OF_RANGE, Reason.UNWILLING, Reason.BACKEND_FAILED}
        assert (code == Reason.FROZEN) == self.pools[at].frozen

    def got(self, at: int, handle: tuple[int, int], page: bytes | None) -> None:
        known = self.known[at].get(handle)
        self.counts["gets"] += 1
        if page is None:
            assert known is None or not self.pools[at].persistent, "a persistent page is lost"
        else:
            assert page == known, "other bytes came back"
        if page is None or self.pools[at].exclusive:
            self.known[at].pop(handle, None)

    @rule(at=pools, obj=objects, index=indexes, look=looks, seed=seeds)
    def put(self, at: int, obj: int, index: int, look: str, seed: int) -> None:
        page = make(look, seed, 1)
        outcome = self.pools[at].put(obj, index, page)
        self.offered(at, (obj, index), page, OUTCOMES.index(outcome))

    @rule(at=pools, obj=objects, first=st.integers(0, 150), pages=st.integers(1, 130), look=looks, seed=seeds)
    def put_many(self, at: int, obj: int, first: int, pages: int, look: str, seed: int) -> None:
        whole = make(look, seed, pages)
        codes = self.pools[at].put_many(obj, range(first, first + pages), whole)
        for n, code in enumerate(codes.tolist()):
            self.offered(at, (obj, first + n), whole[n * PAGE : (n + 1) * PAGE], code)

    @rule(at=pools, obj=objects, index=indexes)
    def get(self, at: int, obj: int, index: int) -> None:
        self.got(at, (obj, index), self.pools[at].get(obj, index))

    @rule(at=pools, obj=objects, first=st.integers(0, 150), pages=st.integers(1, 130))
    def get_many(self, at: int, obj: int, first: int, pages: int) -> None:
        into = np.full((pages, PAGE), 0xEE, np.uint8)
        found = self.pools[at].get_many(obj, range(first, first + pages), into)
        assert (into[~found] == 0xEE).all(), "a miss wrote to its target"
        for n, hit in enumerate(found.tolist()):
            self.got(at, (obj, first + n), into[n].tobytes() if hit else None)

    @rule(at=pools, obj=objects, index=indexes)
    def flush_page(self, at: int, obj: int, index: int) -> None:
        found, known = self.pools[at].flush_page(obj, index), self.known[at].pop((obj, index), None)
        assert found == (known is not None) or (not found and not self.pools[at].persistent)

    @rule(at=pools, obj=objects)
    def flush_object(self, at: int, obj: int) -> None:
        gone = [handle for handle in self.known[at] if handle[0] == obj]
        for handle in gone:
            del self.known[at][handle]
        flushed = self.pools[at].flush_object(obj)
        assert flushed == len(gone) or (flushed < len(gone) and not self.pools[at].persistent)

    @rule(at=pools, frozen=st.booleans())
    def freeze(self, at: int, *, frozen: bool) -> None:
        (self.pools[at].freeze if frozen else self.pools[at].thaw)()

    @rule(guest=st.sampled_from(GUESTS), frozen=st.booleans())
    def freeze_guest(self, guest: str, *, frozen: bool) -> None:
        assert (self.host.freeze if frozen else self.host.thaw)(guest) == 3

    @rule(at=pools)
    def destroy(self, at: int) -> None:
        # Counters of a destroyed pool are gone with it; the host keeps its own.
        self.pools[at].destroy()
        self.pools[at], self.known[at] = Pool(host=self.host, **KINDS[at]), {}

    @rule(capacity=st.integers(SMALLEST, 2 * SMALLEST))
    def resize(self, capacity: int) -> None:
        self.host.resize(capacity)
        assert self.host.stats().footprint <= capacity or self.host.freeable == 0

    @rule(guest=st.sampled_from(GUESTS), weight=st.integers(0, 3), cap=st.none() | st.integers(1, SMALLEST))
    def set(self, guest: str, weight: int, cap: int | None) -> None:
        self.host.set(guest, weight=weight, cap=cap)

    @precondition(lambda self: hasattr(self, "host"))
    @invariant()
    def sums_match(self) -> None:
        assert self.host.check() == []
        stats, guests = self.host.stats(), self.host.guests()
        assert {name: getattr(stats, name) for name in self.counts} == self.counts
        assert stats.puts == stats.succ_puts + stats.failed_puts
        assert stats.failed_puts == sum(stats.refused.values())
        assert stats.pages == sum(guest.pages for guest in guests.values())
        assert stats.evicted == sum(guest.evicted for guest in guests.values())
        assert stats.freeable == sum(guest.freeable for guest in guests.values())
        for guest in guests.values():
            assert guest.cap is None or guest.charge <= guest.cap or guest.freeable == 0, (
                "over its cap with pages to give"
            )
        held = [pool.stats().pages for pool in self.pools]
        assert stats.pages == sum(held)
        for pool, pages, known in zip(self.pools, held, self.known, strict=True):
            assert pages == len(known) if pool.persistent else pages <= len(known)

    def teardown(self) -> None:
        if hasattr(self, "host"):
            for at, known in enumerate(self.known):
                for handle in list(known):
                    self.get(at, *handle)
            for pool in self.pools:
                pool.destroy()
            assert self.host.stats().pages == 0
            assert self.host.check() == []


def _run(cases: int, steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415

    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    limits = settings(max_examples=cases, stateful_step_count=steps, deadline=None, suppress_health_check=quiet)
    run_state_machine_as_test(Pools, settings=limits)


def test_pools_behave_as_dicts_that_may_refuse() -> None:
    _run(25, 40)


@pytest.mark.long
def test_pools_behave_as_dicts_that_may_refuse_for_long() -> None:
    _run(400, 100)
