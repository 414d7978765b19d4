# SPDX-License-Identifier: Apache-2.0
"""Arrays of a Memory are NumPy's own: made in every way, right past the budget, freed with the last reference."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tmem

RAM = 16 << 20
DTYPES = ["f8", "f4", "i2", "u1", "?", "c16", "S5", "U3", "M8[s]", "V7", ">i4", [("a", "i4"), ("b", "f8")]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_zeros_of_every_dtype_is_numpys(memory: tmem.Memory, dtype: Any, order: Any) -> None:
    made = memory.zeros((7, 5, 3), dtype, order)
    plain = np.zeros((7, 5, 3), dtype, order)
    assert type(made) is np.ndarray
    assert made.dtype == plain.dtype
    assert made.strides == plain.strides
    assert made.flags.writeable
    assert made.flags.aligned
    assert made.tobytes() == plain.tobytes()


@pytest.mark.parametrize("shape", [(), 0, (3, 0, 2), 1, [2, 2], np.int64(9)])
def test_empty_of_every_shape_is_numpys(memory: tmem.Memory, shape: Any) -> None:
    made = memory.empty(shape)
    assert made.shape == np.empty(shape).shape
    made[...] = 1
    assert made.sum() == made.size
    memory.prefetch(made)
    memory.evict(made)
    with memory.pin(made):
        assert made.sum() == made.size


def test_full_takes_dtype_from_the_value(memory: tmem.Memory) -> None:
    np.testing.assert_array_equal(memory.full(1000, 7), np.full(1000, 7))
    assert memory.full(3, 7).dtype == np.full(3, 7).dtype
    assert memory.full(3, 1.5, dtype="i4").tolist() == [1, 1, 1]
    np.testing.assert_array_equal(memory.full((2, 3), [1, 2, 3]), np.full((2, 3), [1, 2, 3]))


def test_full_with_a_value_that_does_not_fit_leaves_nothing_behind(memory: tmem.Memory) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        memory.full((2, 3), [1, 2])
    gc.collect()
    assert memory.stats().mapped == 0


def test_array_copies_values_and_layout(memory: tmem.Memory) -> None:
    source = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    made = memory.array(source)
    assert made.flags.f_contiguous
    np.testing.assert_array_equal(made, source)
    source[:] = 0
    assert made[2, 3] == 11
    assert memory.array([[1, 2], [3, 4]], dtype="f4").tolist() == [[1, 2], [3, 4]]
    assert memory.array(5).shape == ()
    assert memory.array(source[::-2, ::3], order="C").flags.c_contiguous


def test_the_base_of_a_view_keeps_the_pages(memory: tmem.Memory) -> None:
    made = memory.full(1 << 16, 3, dtype="i8")
    view = made[::-7][5:]
    del made
    gc.collect()
    assert memory.stats().mapped > 0
    memory.evict(view)
    assert view.sum() == 3 * view.size
    del view
    gc.collect()
    assert memory.stats().mapped == 0
    assert memory.stats().regions == 0


def test_values_are_right_past_the_budget(memory: tmem.Memory) -> None:
    count = 6 * RAM // 8
    made = memory.empty(count, "i8")
    step = 1 << 16
    for start in range(0, count, step):
        made[start : start + step] = np.arange(start, start + step)
    stats = memory.stats()
    assert stats.armed
    assert stats.evictions > 0
    for start in range(0, count, step):
        np.testing.assert_array_equal(made[start : start + step], np.arange(start, start + step))
    assert memory.stats().faults > 0
    assert memory.stats().used <= RAM + (16 << 20) + RAM // 20


def test_incompressible_values_go_to_the_swap_device(make: Any) -> None:
    memory = make(swap="256M")
    random = np.random.default_rng(5)
    parts = [memory.empty(RAM // 2, "u1") for _ in range(6)]
    plain = [random.integers(0, 256, RAM // 2, dtype="u1") for _ in parts]
    for part, values in zip(parts, plain, strict=True):
        part[:] = values
    assert memory.stats().swap_used > 0
    for part, values in zip(parts, plain, strict=True):
        np.testing.assert_array_equal(part, values)


def test_arithmetic_writes_into_arrays_through_out(memory: tmem.Memory) -> None:
    first = memory.full(RAM // 8, 2.0)
    second = memory.full(RAM // 8, 3.0)
    np.multiply(first, second, out=first)
    first.sort()
    assert first.min() == first.max() == 6.0
    assert float(np.linalg.norm(first)) == pytest.approx(6 * (RAM // 8) ** 0.5)


def test_pickle_and_copy_make_plain_arrays(memory: tmem.Memory) -> None:
    made = memory.full(5000, 4, dtype="i4")
    for other in (pickle.loads(pickle.dumps(made)), made.copy()):
        np.testing.assert_array_equal(other, made)
        assert other.base is None or not isinstance(other.base, type(made.base))


@pytest.mark.parametrize("dtype", ["f8", ">i2", "S3"])
def test_from_file_reads_raw_files(memory: tmem.Memory, tmp_path: Path, dtype: str) -> None:
    values = np.arange(10_000).astype(dtype)
    values.tofile(tmp_path / "raw")
    np.testing.assert_array_equal(memory.from_file(tmp_path / "raw", dtype), values)
    np.testing.assert_array_equal(
        memory.from_file(str(tmp_path / "raw"), dtype, (99, 100), offset=values.itemsize * 100, order="F"),
        values[100:].reshape((99, 100), order="F"),
    )


def test_from_file_reads_npy_files_past_the_budget(memory: tmem.Memory, tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(3 * RAM // 8).reshape(3, -1))
    np.save(tmp_path / "a.npy", values)
    made = memory.from_file(tmp_path / "a.npy")
    assert made.flags.f_contiguous
    np.testing.assert_array_equal(made, values)
    np.save(tmp_path / "point.npy", np.float32(2.5))
    assert memory.from_file(tmp_path / "point.npy")[()] == 2.5
    (tmp_path / "nothing").touch()
    assert memory.from_file(tmp_path / "nothing", "f8").shape == (0,)


def test_from_file_of_what_is_no_file_says_so(memory: tmem.Memory, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        memory.from_file(tmp_path / "missing", "f8")
    with pytest.raises((IsADirectoryError, ValueError)):
        memory.from_file(tmp_path, "u1")
    gc.collect()
    assert memory.stats().mapped == 0
