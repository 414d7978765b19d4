# SPDX-License-Identifier: Apache-2.0
"""Shapes, strides and bytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.array import byte_range, element_type, file_layout, nbytes_of, shape_of
from tmem.errors import SizeError


@given(st.data())
def test_byte_range_of_any_view_is_what_its_elements_cover(data: st.DataObject) -> None:
    base = np.arange(3 * 4 * 5, dtype="i2").reshape(3, 4, 5)
    slices = tuple(
        slice(data.draw(st.none() | st.integers(-6, 6)), None, data.draw(st.sampled_from([1, 2, 3, -1, -2])))
        for _ in base.shape
    )
    view = base[slices].transpose(data.draw(st.permutations(range(3))))
    address, count = byte_range(view)
    if view.size == 0:
        assert count == 0
        return
    addresses = [_address(view, index) for index in np.ndindex(view.shape)]
    assert address == min(addresses)
    assert address + count == max(addresses) + view.itemsize


def _address(view: Any, index: tuple[int, ...]) -> int:
    offset = sum(place * stride for place, stride in zip(index, view.strides, strict=True))
    return int(view.__array_interface__["data"][0] + offset)


def test_byte_range_of_scalars_broadcasts_and_fields() -> None:
    point = np.zeros((), dtype="f8")
    assert byte_range(point)[1] == 8
    wide = np.broadcast_to(point, (1000, 1000))
    assert byte_range(wide) == byte_range(point)
    records = np.zeros(10, dtype=[("a", "i4"), ("b", "f8")])
    address, count = byte_range(records["b"])
    assert address == byte_range(records)[0] + 4
    assert count == 9 * 12 + 8


@pytest.mark.parametrize("shape", [5, (), (2, 3), [4], np.int64(3), (np.int8(2), 3)])
def test_shape_of_takes_what_numpy_takes(shape: Any) -> None:
    assert shape_of(shape) == np.empty(shape).shape


@pytest.mark.parametrize("shape", [-1, (2, -3)])
def test_shape_of_a_negative_length_is_refused(shape: Any) -> None:
    with pytest.raises(SizeError, match="negative length"):
        shape_of(shape)


@pytest.mark.parametrize("shape", [1.5, ("3",), (2, None)])
def test_shape_of_what_is_no_integer_is_refused(shape: Any) -> None:
    with pytest.raises(TypeError):
        shape_of(shape)


def test_nbytes_of_more_than_an_address_is_refused() -> None:
    assert nbytes_of((3, 0, 1 << 62), np.dtype("f8")) == 0
    assert nbytes_of((), np.dtype("f8")) == 8
    with pytest.raises(SizeError, match="more than an address can name"):
        nbytes_of((sys.maxsize, 2), np.dtype("i1"))


@pytest.mark.parametrize("dtype", [object, "O", [("a", "i4"), ("b", "O")]])
def test_element_type_of_objects_is_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="garbage collector"):
        element_type(dtype)


def test_element_type_of_variable_strings_is_refused() -> None:
    strings = getattr(np.dtypes, "StringDType", None)
    if strings is None:
        pytest.skip("this NumPy has no variable-width strings")
    with pytest.raises(TypeError, match="garbage collector"):
        element_type(strings())


@pytest.mark.parametrize(
    "dtype", ["f4", "S", "S7", "U3", "M8[ns]", "V5", "c16", "?", ">i4", [("a", "i4"), ("b", "f8")]]
)
def test_element_type_is_numpys_own(dtype: Any) -> None:
    assert element_type(dtype) == np.empty(0, dtype).dtype


def test_file_layout_reads_npy_headers(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(12, dtype="<i4").reshape(3, 4))
    np.save(tmp_path / "a.npy", values)
    shape, kind, offset, order = file_layout(tmp_path / "a.npy", None, None, 0, "C")
    assert (shape, kind, order) == ((3, 4), np.dtype("<i4"), "F")
    assert (tmp_path / "a.npy").stat().st_size == offset + values.nbytes


def test_file_layout_of_raw_files_checks_their_size(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(100))
    assert file_layout(path, "f4", None, 0, "C")[0] == (25,)
    assert file_layout(path, "f4", None, 4, "C")[0] == (24,)
    assert file_layout(path, "f8", (2, 6), 4, "F")[0] == (2, 6)
    with pytest.raises(ValueError, match="not a multiple of 8"):
        file_layout(path, "f8", None, 0, "C")
    with pytest.raises(ValueError, match="cut short"):
        file_layout(path, "f8", 13, 0, "C")
    with pytest.raises(ValueError, match="outside"):
        file_layout(path, "f8", None, 101, "C")
    with pytest.raises(ValueError, match="outside"):
        file_layout(path, "f8", None, -1, "C")
    with pytest.raises(ValueError, match="give the dtype"):
        file_layout(path, None, None, 0, "C")
    with pytest.raises(ValueError, match="give its dtype too"):
        file_layout(path, None, 5, 0, "C")


def test_file_layout_of_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(TypeError, match="garbage collector"):
        file_layout(tmp_path / "o.npy", None, None, 0, "C")


def test_file_layout_of_a_cut_npy_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(1000))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="cut short"):
        file_layout(tmp_path / "a.npy", None, None, 0, "C")
    (tmp_path / "a.npy").write_bytes(whole[:9])
    with pytest.raises(ValueError, match=r"header|array|expected"):
        file_layout(tmp_path / "a.npy", None, None, 0, "C")
