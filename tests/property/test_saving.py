# SPDX-License-Identifier: Apache-2.0
"""Saved pools behave as copies of dicts from which things may vanish while they are copied, and nothing may come.

Between the pieces of a file pools are flushed and put to; what the last look found is what comes back.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmem
from tests import savedfile
from tmem import Host, Pool, _core
from tmem.newfile import NewFile

PAGE = 4096
OBJECTS = (0, 1, 1 << 64, 1 << 128, 1 << 191, (1 << 191) | 1)
KINDS: tuple[dict[str, Any], ...] = ({}, {"raw": False, "guest": "second"}, {"pack": False})

Pages = dict[tuple[int, int], bytes]
objects = st.sampled_from(OBJECTS)
indexes = st.one_of(st.integers(0, 200), st.sampled_from([63, 64, 2**32, 2**63, 2**64 - 1]))
handles = st.tuples(objects, indexes)
runs = st.tuples(objects, st.integers(0, 2**40), st.integers(1, 400), st.sampled_from(["same", "packs", "noise"]))
actions = st.one_of(
    st.tuples(st.just("flush_page"), handles),
    st.tuples(st.just("flush_object"), handles),
    st.tuples(st.just("put"), handles),
    st.tuples(st.just("get"), handles),
)


def make(look: str, seed: int, pages: int) -> bytes:
    random = np.random.default_rng(seed)
    if look == "same":
        return np.repeat(random.integers(0, 2**63, pages), PAGE // 8).tobytes()
    return (np.arange(pages * PAGE // 8) // 9 + seed).tobytes() if look == "packs" else random.bytes(pages * PAGE)


def act(pool: Pool, known: Pages, what: str, handle: tuple[int, int]) -> None:
    if what == "flush_page":
        assert pool.flush_page(*handle) == (known.pop(handle, None) is not None)
    elif what == "flush_object":
        gone = [one for one in known if one[0] == handle[0]]
        assert pool.flush_object(handle[0]) == len(gone)
        for one in gone:
            del known[one]
    elif what == "put":
        assert not pool.put(*handle, bytes(PAGE)), "a pool that is being saved took a page"
        known.pop(handle, None)
    else:
        assert pool.get(*handle) == known.get(handle)


class Meddler(NewFile):
    """Has things happen to the pools before each piece is written."""

    def __init__(self, path: str, pools: list[Pool], known: list[Pages], rounds: list[list[Any]]) -> None:
        super().__init__(path)
        self.pools, self.known, self.rounds = pools, known, rounds

    def sync(self) -> None:
        self._meddle()
        super().sync()

    def write(self, piece: bytes) -> None:
        super().write(piece)
        self._meddle()

    def _meddle(self) -> None:
        for at, (what, handle) in self.rounds.pop() if self.rounds else ():
            act(self.pools[at % len(self.pools)], self.known[at % len(self.pools)], what, handle)


def save(path: Path, pools: list[Pool], known: list[Pages], rounds: list[list[Any]]) -> None:
    """As `tmem.saving.save` does it, but that what comes after the last look does not count."""
    saver = _core.Saver([(pool._core, pool.name, pool.guest) for pool in pools])
    with Meddler(str(path), pools, known, rounds) as file:
        saver.begin()
        while (piece := saver.piece()) is not None:
            file.write(piece)
        file.sync()
        end, pages = saver.finish()
        assert pages == sum(map(len, known))
        file.rounds.clear()
        file.write(end)
        file.publish()
    saver.release()


def check(kinds: list[int], filled: list[Any], rounds: list[list[Any]]) -> None:
    host, there = Host("64M"), Host("64M")
    pools = [Pool(host=host, **KINDS[kind]) for kind in kinds]
    known: list[Pages] = [{} for _ in pools]
    for at, (obj, first, pages, look) in filled:
        whole = make(look, first, pages)
        codes = pools[at % len(pools)].put_many(obj, range(first, first + pages), whole)
        for n, code in enumerate(codes.tolist()):
            known[at % len(pools)].pop((obj, first + n), None)
            if code == 0:
                known[at % len(pools)][obj, first + n] = whole[n * PAGE : (n + 1) * PAGE]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pools"
        save(path, pools, known, rounds)
        if len(pools) == 1:
            assert savedfile.live(path.read_bytes()) == known[0].keys()
        restored = list(tmem.restore_pools(path, host=there).values())
    for pools_now in (pools, restored):
        for pool, pages_now in zip(pools_now, known, strict=True):
            assert pool.stats().pages == len(pages_now)
            assert not pool.frozen
            assert all(pool.get(*handle) == page for handle, page in pages_now.items())
    assert host.check() == there.check() == []


kinds = st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=3)
fills = st.lists(st.tuples(st.integers(0, 2), runs), max_size=6)
meddling = st.lists(st.lists(st.tuples(st.integers(0, 2), actions), max_size=12), max_size=12)


@settings(max_examples=40, deadline=None)
@given(kinds, fills, meddling)
def test_saved_pools_are_copies_of_what_was_left(kinds: list[int], filled: list[Any], rounds: list[list[Any]]) -> None:
    check(kinds, filled, rounds)


@pytest.mark.long
@pytest.mark.timeout(600)
@settings(max_examples=250, deadline=None)
@given(kinds, fills, meddling)
def test_saved_pools_are_copies_of_what_was_left_for_long(
    kinds: list[int], filled: list[Any], rounds: list[list[Any]]
) -> None:
    check(kinds, filled, rounds)
