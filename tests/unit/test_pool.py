# SPDX-License-Identifier: Apache-2.0
"""A pool as a Python user meets it: handles, buffers, outcomes, errors, ends."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tmem
from tmem import Host, Pool, Reason, Refused, Stored

PAGE = 4096
LAST_OBJECT = 2**192 - 1
LAST_INDEX = 2**64 - 1


def noise(seed: int, pages: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(pages * PAGE)


@pytest.fixture
def host() -> Host:
    return Host("4M")


@pytest.fixture
def pool(host: Host) -> Iterator[Pool]:
    with Pool(host=host) as made:
        yield made
        if not made.destroyed:
            assert made.check() == []


def test_page_comes_back(pool: Pool) -> None:
    page = noise(1)
    assert pool.put(1, 2, page) == Stored()
    assert pool.get(1, 2) == page
    assert pool.get(1, 2) == page
    assert (1, 2) in pool
    assert (2, 1) not in pool
    assert pool.get(2, 1) is None


def test_put_and_get_copy(pool: Pool) -> None:
    mine = bytearray(noise(1))
    pool.put(0, 0, mine)
    mine[:] = bytes(PAGE)
    assert pool.get(0, 0) == noise(1)
    into = bytearray(PAGE)
    assert pool.get(0, 0, into=into) is True
    into[0] ^= 1
    assert pool.get(0, 0) == noise(1)


def test_miss_leaves_the_target_alone(pool: Pool) -> None:
    into = bytearray(b"x" * PAGE)
    assert pool.get(0, 0, into=into) is False
    assert into == b"x" * PAGE


@pytest.mark.parametrize(
    "same", [(0, b""), (1, b"\x01"), (1, b"\x01\x00"), (256, b"\x00\x01"), (2**191, bytes(23) + b"\x80")]
)
def test_bytes_are_little_endian_numbers(pool: Pool, same: tuple[int, bytes]) -> None:
    number, text = same
    pool.put(number, 0, noise(5))
    assert pool.get(text, 0) == noise(5)


def test_ids_that_differ_anywhere_are_different_objects(pool: Pool) -> None:
    ids: list[int] = [0, LAST_OBJECT, *(1 << bit for bit in range(192))]
    for n, number in enumerate(ids):
        assert pool.put(number, 7, np.full(512, n))
    for n, number in enumerate(ids):
        assert pool.get(number, 7) == np.full(512, n).tobytes()
        assert pool.get(number.to_bytes(24, "little"), 7) == np.full(512, n).tobytes()


def test_indexes_that_differ_anywhere_are_different_pages(pool: Pool) -> None:
    indexes = [0, LAST_INDEX, *(1 << bit for bit in range(64)), *(LAST_INDEX ^ (1 << bit) for bit in range(64))]
    for n, index in enumerate(indexes):
        assert pool.put(3, index, np.full(512, n))
    into = np.empty((len(indexes), 512), int)
    assert pool.get_many(3, indexes, into).all()
    assert (into == np.arange(len(indexes))[:, None]).all()


@pytest.mark.parametrize(
    ("object_id", "error"),
    [
        (-1, OverflowError),
        (2**192, OverflowError),
        (bytes(25), ValueError),
        ("1", TypeError),
        (1.0, TypeError),
        (None, TypeError),
    ],
)
def test_bad_object_is_named(pool: Pool, object_id: Any, error: type[Exception]) -> None:
    for verb in (
        pool.flush_object,
        lambda o: pool.put(o, 0, noise(1)),
        lambda o: pool.get_many(o, [0], bytearray(PAGE)),
    ):
        with pytest.raises(error, match="object id"):
            verb(object_id)
    assert pool.stats().puts == 0


@pytest.mark.parametrize(
    ("index", "error"), [(-1, OverflowError), (2**64, OverflowError), ("1", TypeError), (1.5, TypeError)]
)
def test_bad_index_is_named(pool: Pool, index: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        pool.put(0, index, noise(1))
    with pytest.raises(error):
        pool.put_many(0, [index], noise(1))
    assert pool.stats().puts == 0


@pytest.mark.parametrize(
    ("indexes", "error"),
    [
        (np.array([0, -1]), OverflowError),
        (range(1, -1, -1), None),
        (range(-1, 1), OverflowError),
        (range(LAST_INDEX, LAST_INDEX + 2), OverflowError),
        (np.zeros((2, 1), int), ValueError),
        (np.array([0.0, 1.0]), TypeError),
        (np.array([True, False]), TypeError),
        (["a", "b"], TypeError),
        ([0, 2**64], OverflowError),
    ],
)
def test_bad_indexes_are_refused_whole(pool: Pool, indexes: Any, error: type[Exception] | None) -> None:
    if error is None:
        assert not pool.put_many(0, indexes, noise(1, 2)).any()
        return
    with pytest.raises(error):
        pool.put_many(0, indexes, noise(1, 2))
    with pytest.raises(error):
        pool.get_many(0, indexes, bytearray(2 * PAGE))
    assert pool.stats().puts == pool.stats().gets == 0


@pytest.mark.parametrize(
    "indexes",
    [
        range(5),
        range(40, 0, -8),
        range(LAST_INDEX - 4, LAST_INDEX + 1),
        [5, 4, 3, 2, 1],
        (LAST_INDEX, 0, 2**63, 1, 2),
        np.arange(5, dtype=np.int8),
        np.arange(5, dtype=">u4"),
        np.arange(10, dtype=np.uint64)[::2],
        (np.int64(n) for n in range(5)),
    ],
    ids=lambda indexes: type(indexes).__name__,
)
def test_any_integers_are_indexes(pool: Pool, indexes: Any) -> None:
    wanted = [int(i) for i in indexes] if not hasattr(indexes, "__next__") else list(range(5))
    pages = np.frombuffer(noise(4, 5), np.uint8).reshape(5, PAGE)
    codes = pool.put_many(9, indexes, pages)
    assert codes.dtype == np.uint8
    assert not codes.any()
    for index, page in zip(wanted, pages, strict=True):
        assert pool.get(9, index) == page.tobytes()


def test_no_index_is_no_page(pool: Pool) -> None:
    nothing: list[Any] = [[], range(0), np.array([], int)]
    for none in nothing:
        assert len(pool.put_many(0, none, b"")) == 0
        assert len(pool.get_many(0, none, bytearray())) == 0


def test_batch_skips_what_is_not_there(pool: Pool) -> None:
    pool.put_many(0, [0, 2], noise(7, 2))
    into = np.full((4, PAGE), 9, np.uint8)
    found = pool.get_many(0, range(4), into)
    assert found.dtype == np.bool_
    assert found.tolist() == [True, False, True, False]
    assert into[[0, 2]].tobytes() == noise(7, 2)
    assert (into[[1, 3]] == 9).all()


@pytest.mark.parametrize(
    "page",
    [
        noise(1),
        bytearray(noise(1)),
        memoryview(b"x" + noise(1))[1:],
        np.frombuffer(noise(1), np.uint8),
        np.frombuffer(noise(1), "f4").reshape(32, 32),
        np.frombuffer(noise(1), "u2").reshape(64, 32, order="F"),
        np.frombuffer(noise(1), "M8[s]"),
        np.frombuffer(noise(1), [("Odd", "i4"), ("b", "i4")]),
        np.frombuffer(b"xyz" + noise(1), np.uint8)[3:],
        (ctypes.c_ubyte * PAGE).from_buffer_copy(noise(1)),
    ],
    ids=lambda page: type(page).__name__,
)
def test_any_contiguous_buffer_is_a_page(pool: Pool, page: Any) -> None:
    assert pool.put(0, 0, page)
    assert pool.get(0, 0) == noise(1)


def test_column_order_is_kept_byte_for_byte(pool: Pool) -> None:
    columns = np.asfortranarray(np.frombuffer(noise(1), "i4").reshape(32, 32))
    pool.put(0, 0, columns)
    into = np.empty((32, 32), "i4", order="F")
    assert pool.get(0, 0, into=into)
    assert (into == columns).all()


@pytest.mark.parametrize(
    ("page", "error"),
    [
        (noise(1)[1:], ValueError),
        (noise(1, 2), ValueError),
        (b"", ValueError),
        (np.zeros(2 * PAGE, np.uint8)[::2], (BufferError, ValueError)),
        ("x" * PAGE, TypeError),
        (None, TypeError),
        (np.zeros(512, object), TypeError),
    ],
    ids=lambda given: getattr(given, "__name__", type(given).__name__),
)
def test_what_is_no_page_is_refused_and_loses_nothing(pool: Pool, page: Any, error: Any) -> None:
    pool.put(0, 0, noise(3))
    with pytest.raises(error):
        pool.put(0, 0, page)
    assert pool.get(0, 0) == noise(3)


@pytest.mark.parametrize(
    "into",
    [bytes(PAGE), bytearray(PAGE - 1), np.zeros(512, object), memoryview(bytes(PAGE))],
    ids=lambda into: type(into).__name__,
)
def test_what_cannot_be_written_to_is_refused(pool: Pool, into: Any) -> None:
    pool.put(0, 0, noise(3))
    with pytest.raises((BufferError, ValueError, TypeError)):
        pool.get(0, 0, into=into)
    with pytest.raises((BufferError, ValueError, TypeError)):
        pool.get_many(0, [0], into)


def test_duplicate_is_replaced_or_both_are_gone(host: Host) -> None:
    with Pool(host=host, raw=False) as pool:
        assert pool.put(0, 0, bytes(PAGE))
        assert pool.put(0, 0, b"ab" * 2048)
        assert pool.get(0, 0) == b"ab" * 2048
        assert pool.put(0, 0, noise(1)) == Refused(Reason.INCOMPRESSIBLE)
        assert pool.get(0, 0) is None


def test_flush_of_what_is_not_there_succeeds(pool: Pool) -> None:
    assert pool.flush_page(0, 0) is False
    assert pool.flush_object(0) == 0
    pool.put_many(0, range(70), noise(1, 70))
    assert pool.flush_page(0, 3) is True
    assert pool.flush_object(0) == 69
    assert pool.get(0, 4) is None


def test_frozen_pool_gives_and_flushes(pool: Pool) -> None:
    pool.put_many(0, range(3), noise(1, 3))
    pool.freeze()
    assert pool.frozen is True
    assert pool.put(0, 5, noise(1)) == Refused(Reason.FROZEN)
    assert pool.put_many(0, [0], noise(1)).tolist() == [Reason.FROZEN]
    assert pool.get(0, 0) is None  # law 3, also when frozen
    assert pool.get(0, 1) is not None
    assert pool.flush_page(0, 1)
    pool.thaw()
    assert pool.stats().frozen is False
    assert pool.put(0, 5, noise(1))


@pytest.mark.parametrize("exclusive", [True, False])
def test_ephemeral_page_leaves_with_its_get_or_stays(host: Host, *, exclusive: bool) -> None:
    with Pool(persistent=False, exclusive=exclusive, host=host) as pool:
        assert (pool.persistent, pool.exclusive) == (False, exclusive)
        pool.put(0, 0, noise(1))
        pool.freeze()
        assert pool.get(0, 0) == noise(1)
        assert pool.get(0, 0) == (None if exclusive else noise(1))
        assert pool.check() == []


def test_exclusive_is_what_an_ephemeral_pool_is_by_default(host: Host) -> None:
    assert Pool(persistent=False, host=host).exclusive
    assert not Pool(host=host).exclusive
    for value in (True, False):
        with pytest.raises(ValueError, match="ephemeral"):
            Pool(exclusive=value, host=host)


def test_counters_have_their_historical_names(pool: Pool) -> None:
    pool.put(0, 0, noise(1))
    pool.put(0, 0, noise(2))
    pool.get(0, 0)
    pool.get(0, 1)
    pool.flush_page(0, 0)
    pool.freeze()
    pool.put(0, 0, noise(1))
    stats = pool.stats()
    assert (stats.puts, stats.succ_puts, stats.failed_puts, stats.dup_puts) == (3, 2, 1, 1)
    assert (stats.gets, stats.succ_gets, stats.flushed, stats.evicted, stats.pages) == (2, 1, 1, 0, 0)
    assert {name: n for name, n in stats.refused.items() if n} == {"frozen": 1}
    assert set(stats.refused) == {reason.counter for reason in Reason}
    assert stats.as_dict()["frozen"] is True


def test_destroyed_pool_says_so(pool: Pool) -> None:
    pool.put_many(0, range(3), noise(1, 3))
    assert pool.destroy() == 3
    assert pool.destroyed
    assert pool.destroy() == 0
    for verb in (
        pool.stats,
        pool.freeze,
        lambda: pool.get(0, 0),
        lambda: pool.put(0, 0, noise(1)),
        lambda: (0, 0) in pool,
    ):
        with pytest.raises(tmem.ClosedError, match="make a new Pool"):
            verb()
    assert "destroyed" in repr(pool)


def test_pool_without_a_reference_gives_its_memory_back(host: Host) -> None:
    pool = Pool(host=host)
    pool.put_many(0, range(100), noise(1, 100))
    assert host.stats().pages == 100
    del pool
    gc.collect()
    assert host.stats().pages == 0
    assert host.check() == []


def test_pools_of_one_host_know_nothing_of_each_other(host: Host) -> None:
    first, second = Pool(host=host), Pool(host=host)
    first.put(0, 0, noise(1))
    assert second.get(0, 0) is None
    assert second.put(0, 0, noise(2))
    assert first.get(0, 0) == noise(1)
    assert first.name != second.name


def test_pools_are_limited_and_places_are_given_again(host: Host) -> None:
    pools = [Pool(host=host) for _ in range(64)]
    with pytest.raises(tmem.PoolError, match="destroy one first"):
        Pool(host=host)
    pools[7].destroy()
    Pool(host=host)


@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
def test_memory_is_not_pickled(host: Host, copying: Any) -> None:
    for thing in (host, Pool(host=host)):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copying(thing)


@pytest.mark.parametrize("name", ["", "x" * 64, "two\nlines"])
def test_bad_names_are_refused(host: Host, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Pool(host=host, name=name)
    if "\n" not in name:
        with pytest.raises(ValueError, match="name"):
            Pool(host=host, guest=name)


def test_default_host_is_one_for_the_process() -> None:
    first, second = Pool(name="one"), Pool(persistent=False)
    assert first.host is second.host
    assert first.guest == "default"
    assert repr(first) == "<tmem.Pool 'one' persistent guest='default' pages=0>"
