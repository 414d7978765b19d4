# SPDX-License-Identifier: Apache-2.0
"""Arrays and bytes: how large an array will be, and which bytes an array covers.

Owns: the arithmetic between NumPy's shapes and strides and plain byte ranges. Called by memory. Calls NumPy only.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from tmem.errors import SizeError

__all__ = [
    "Array",
    "Order",
    "Shape",
    "byte_range",
    "element_type",
    "file_layout",
    "fill",
    "nbytes_of",
    "order_of",
    "shape_of",
]

Array = npt.NDArray[Any]
"""A plain numpy.ndarray of any dtype."""

Order = Literal["C", "F"]
"""Rows together (`C`) or columns together (`F`), as NumPy has it."""

Shape = SupportsIndex | Sequence[SupportsIndex]
"""One length, or one for each dimension."""

_NPY_MAGIC = b"\x93NUMPY"
_COPY_BYTES = 4 << 20


def order_of(order: str) -> Order:
    """Return an order as it is named. ValueError for what is none."""
    if order == "C":
        return "C"
    if order == "F":
        return "F"
    raise ValueError(f"order must be 'C' (rows together) or 'F' (columns together), not {order!r}")


def element_type(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return `dtype` as NumPy makes it for a new array. TypeError where its elements are Python objects."""
    made = np.empty(0, dtype=dtype).dtype if np.dtype(dtype).subdtype is None else np.dtype(dtype)
    if made.hasobject:
        raise TypeError(
            f"dtype {made} holds references to Python objects, which the garbage collector must find in plain memory: "
            "use a fixed-size dtype such as 'f8' or 'S20', or numpy.empty for this array"
        )
    return made


def shape_of(shape: Shape) -> tuple[int, ...]:
    """Return `shape` as a tuple. ValueError for a negative length."""
    lengths = (shape,) if isinstance(shape, SupportsIndex) else tuple(shape)
    result = tuple(operator.index(length) for length in lengths)
    if any(length < 0 for length in result):
        raise SizeError(f"shape {result} has a negative length: every length must be zero or more")
    return result


def nbytes_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the size in bytes. SizeError where no address space holds it."""
    count = dtype.itemsize
    for length in shape:
        count *= length
    if count > sys.maxsize:
        raise SizeError(f"an array of shape {shape} and dtype {dtype} has {count} bytes, more than an address can name")
    return count


def byte_range(array: Array) -> tuple[int, int]:
    """Return (address, bytes) from the lowest to past the highest byte that `array` reaches, whatever its strides."""
    low = high = array.__array_interface__["data"][0]
    if array.size == 0:
        return low, 0
    for length, stride in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * stride
        low, high = (low + reach, high) if reach < 0 else (low, high + reach)
    return low, high - low + array.itemsize


def file_layout(
    path: Path, dtype: npt.DTypeLike | None, shape: Shape | None, offset: int, order: Order
) -> tuple[tuple[int, ...], np.dtype[Any], int, Order]:
    """Return (shape, dtype, offset of the data in bytes, order) of the array in the file at `path`.

    Without a dtype a `.npy` header must tell; with one the file is raw, and its shape defaults to all after `offset`.
    ValueError where the file is no such thing or too short.
    """
    size = path.stat().st_size
    if dtype is None:
        if shape is not None or offset:
            raise ValueError("shape and offset describe a raw file: give its dtype too")
        return _npy_layout(path, size)
    kind = element_type(dtype)
    if not 0 <= offset <= size:
        raise ValueError(f"offset {offset} is outside {path}, which has {size} bytes")
    if shape is None:
        if kind.itemsize == 0 or (size - offset) % kind.itemsize:
            raise ValueError(
                f"{path} has {size - offset} bytes after the offset, not a multiple of {kind.itemsize}, the size of "
                f"{kind}: check the dtype and the offset, or give the shape"
            )
        return ((size - offset) // kind.itemsize,), kind, offset, order
    lengths = shape_of(shape)
    _enough(path, size - offset, nbytes_of(lengths, kind))
    return lengths, kind, offset, order


def _npy_layout(path: Path, size: int) -> tuple[tuple[int, ...], np.dtype[Any], int, Order]:
    with path.open("rb") as file:
        if file.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
            raise ValueError(f"{path} is not a .npy file: give the dtype of its raw contents, dtype='f8' for instance")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"{path} has .npy version {version}: save it with numpy.save, which writes 1.0 or 2.0")
        shape, fortran, dtype = readers[version](file)
        offset = file.tell()
    kind = element_type(dtype)
    _enough(path, size - offset, nbytes_of(shape, kind))
    return shape, kind, offset, "F" if fortran else "C"


def _enough(path: Path, there: int, needed: int) -> None:
    if there < needed:
        raise ValueError(f"{path} has {there} bytes of data where the array needs {needed}: is the file cut short?")


def fill(target: Array, path: Path, start: int) -> None:
    """Fill `target` from the file through a plain buffer, so that no system call ever meets a missing page."""
    if target.nbytes == 0:
        return
    flat = target.reshape(-1, order="A").view(np.uint8)
    buffer = memoryview(bytearray(min(_COPY_BYTES, target.nbytes)))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        done = 0
        while done < target.nbytes:
            count = file.readinto(buffer[: target.nbytes - done])
            if not count:
                raise ValueError(f"{path} ended after {start + done} bytes: did another program cut it short?")
            flat[done : done + count] = np.frombuffer(buffer[:count], dtype=np.uint8)
            done += count
