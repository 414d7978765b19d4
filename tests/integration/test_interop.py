# SPDX-License-Identifier: Apache-2.0
"""Paged arrays in the hands of others: buffers, DLPack, Arrow, pickle, copies, and steering by whoever has a view."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest

import tmem

SIZE = 3 << 20


@pytest.fixture
def array(make: Any) -> Any:
    """An array that is out of RAM."""
    memory = make()
    made = memory.array(np.arange(SIZE // 8))
    memory.evict(made)
    return made


EXPECTED = np.arange(SIZE // 8)


def test_the_buffer_protocol_shows_the_same_bytes(array: Any) -> None:
    view = memoryview(array)
    assert view.nbytes == SIZE
    assert view.tobytes() == EXPECTED.tobytes()
    view[5] = 77
    assert array[5] == 77
    assert tmem.is_paged(np.frombuffer(view, "i8"))


def test_dlpack_shares_the_pages_and_keeps_them_alive(array: Any) -> None:
    assert array.__dlpack_device__() == (1, 0)
    shared = np.from_dlpack(array)
    assert tmem.is_paged(shared)
    address = array.__array_interface__["data"][0]
    del array
    gc.collect()
    assert shared.__array_interface__["data"][0] == address
    assert (shared == EXPECTED).all()


def test_arrow_wraps_the_pages_without_a_copy(array: Any) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    buffer = pa.py_buffer(array)
    assert buffer.address == array.__array_interface__["data"][0]
    wrapped = pa.Array.from_buffers(pa.int64(), array.size, [None, buffer])
    tmem.evict(array)
    assert wrapped.sum().as_py() == int(EXPECTED.sum())
    del array
    gc.collect()
    assert tmem.is_paged(wrapped.to_numpy())


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_gives_plain_values(array: Any, protocol: int) -> None:
    back = pickle.loads(pickle.dumps(array, protocol))
    assert (back == EXPECTED).all()
    assert not tmem.is_paged(back)


def test_out_of_band_pickling_lends_the_pages(array: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(array, 5, buffer_callback=buffers.append)
    back = pickle.loads(data, buffers=buffers)
    assert tmem.is_paged(back)
    assert (back == EXPECTED).all()


def test_copies_are_plain_outside_a_limit_and_paged_inside(array: Any) -> None:
    for made in (copy.copy(array), copy.deepcopy(array), array.copy(), np.array(array)):
        assert (made == EXPECTED).all()
        assert not tmem.is_paged(made)
        made[0] = -1
        assert array[0] == 0
    with tmem.limit("16M") as limit:
        assert all(tmem.is_paged(made) for made in (copy.copy(array), copy.deepcopy(array), array.copy()))
    limit.close()


VIEWS = {
    "whole": lambda a: a,
    "slice": lambda a: a[1000:50_000],
    "steps": lambda a: a[::7],
    "backwards": lambda a: a[::-1],
    "column": lambda a: a.reshape(-1, 8)[:, 3],
    "transposed": lambda a: a.reshape(-1, 8).T,
    "bytes": lambda a: a.view("u1"),
    "one": lambda a: a[3:4],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_any_view_is_steered(array: Any, view: Any) -> None:
    seen = view(array)
    tmem.prefetch(seen)
    tmem.advise(seen, "sequential")
    tmem.advise(seen, "normal")
    with tmem.pin(seen) as pinned:
        assert pinned is seen
        pinned_bytes = sum(each.pinned for each in tmem.stats().memories)
        assert pinned_bytes > 0
        assert tmem.evict(seen) == 0
    assert tmem.evict(seen) > 0
    assert (seen == view(EXPECTED)).all()


def test_steering_works_without_the_memory_at_hand() -> None:
    array = tmem.Memory("16M").full(SIZE // 8, 5)
    gc.collect()
    assert tmem.evict(array) == SIZE
    assert (array == 5).all()
    empty = array[:0]
    assert tmem.evict(empty) == 0
    assert not tmem.is_paged(empty)
    with tmem.pin(empty):
        tmem.prefetch(empty)
        tmem.advise(empty, "cold")


@pytest.mark.parametrize(
    "verb", [tmem.evict, tmem.prefetch, lambda a: tmem.advise(a, "cold"), lambda a: tmem.pin(a).__enter__()]
)
def test_what_is_not_paged_is_refused_with_the_next_step(verb: Any) -> None:
    with pytest.raises(ValueError, match="not paged"):
        verb(np.zeros(100))
    with pytest.raises(TypeError, match="ndarray"):
        verb([1, 2])


def test_unknown_advice_is_refused(array: Any) -> None:
    with pytest.raises(ValueError, match="advice must be"):
        tmem.advise(array, "soon")  # type: ignore[arg-type]


def test_process_stats_add_up_and_go_to_json(array: Any) -> None:
    stats = tmem.stats()
    assert stats.mapped >= array.nbytes
    assert stats.ram == sum(each.ram for each in stats.memories)
    assert stats.numpy.managed >= array.nbytes
    document = stats.as_dict()
    assert document["numpy"]["share"] == stats.numpy.share  # type: ignore[index]
    assert tmem.stats(large=1 << 40).numpy.share == 1.0
