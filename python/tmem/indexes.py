# SPDX-License-Identifier: Apache-2.0
"""What names a page in a pool, and how indexes of many pages are given.

Owns: the types of handles and pages, and the one conversion of indexes to numbers. Called by pool and guest. Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Indexes", "ObjectId", "Pages", "numbers_of"]

ObjectId: TypeAlias = int | bytes
Indexes: TypeAlias = range | npt.NDArray[np.integer[Any]] | Iterable[int]
"""The index of each page, in the order of the pages."""
Pages: TypeAlias = Any
"""Anything with a contiguous buffer: bytes, bytearray, memoryview, an array of any dtype in C or Fortran order."""

_INDEX_END = 2**64


def numbers_of(indexes: Indexes) -> npt.NDArray[np.uint64]:
    """Return indexes as 64-bit numbers. TypeError for what is no integer, OverflowError for what is out of range."""
    if isinstance(indexes, range):
        return _range(indexes)
    if not isinstance(indexes, np.ndarray):
        whole = [operator.index(index) for index in indexes]
        if whole and not (min(whole) >= 0 and max(whole) < _INDEX_END):
            raise OverflowError("an index is at least 0 and below 2**64")
        return np.array(whole, dtype=np.uint64)
    if indexes.ndim != 1:
        raise ValueError(f"indexes must have one dimension, not {indexes.ndim}")
    if indexes.dtype.kind not in "iu":
        raise TypeError(f"indexes must be integers, not {indexes.dtype}")
    if indexes.dtype.kind == "i" and indexes.size and indexes.min() < 0:
        raise OverflowError("an index is at least 0 and below 2**64")
    return np.ascontiguousarray(indexes, dtype=np.uint64)


def _range(indexes: range) -> npt.NDArray[np.uint64]:
    """Return a range as an array, without making its numbers one by one."""
    if not indexes:
        return np.empty(0, np.uint64)
    low, high = min(indexes[0], indexes[-1]), max(indexes[0], indexes[-1])
    if low < 0 or high >= _INDEX_END:
        raise OverflowError("an index is at least 0 and below 2**64")
    steps = np.arange(len(indexes), dtype=np.uint64) * np.uint64(abs(indexes.step) if len(indexes) > 1 else 0)
    return np.uint64(indexes[0]) + steps if indexes.step > 0 else np.uint64(indexes[0]) - steps
