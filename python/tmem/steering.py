# SPDX-License-Identifier: Apache-2.0
"""evict, prefetch, pin and advise for any paged array, whoever made it.

Owns: finding the Memory that has an array's pages. Called by users, and by memory for its own arrays. Calls array and
the native module. Below the budget, pages stay where they are until `evict` is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from tmem import _core
from tmem.array import Array, byte_range
from tmem.counters import PAGE
from tmem.errors import warning_of

__all__ = ["TIERS", "Advice", "advise", "evict", "is_paged", "pin", "prefetch", "raise_notices", "tiers"]

Advice = Literal["normal", "sequential", "random", "cold", "willneed"]
"""How an array will be used: `sequential` reads ahead from the first fault on, `random` never, `cold` leaves first."""

_ADVICE = get_args(Advice)

_A = TypeVar("_A", bound=Array)


def evict(array: Array) -> int:
    """Send the pages under `array` out of RAM now; return how many bytes left. Pinned pages stay.

    `array` is a paged array or any view of one. ValueError where it is not paged.
    """
    core, address, count = _owner(array)
    pages = core.evict(address, count) if core else 0
    raise_notices(core)
    return pages * PAGE


def prefetch(array: Array) -> None:
    """Bring the pages under `array` into RAM, as far as the budget has room. ValueError where it is not paged."""
    core, address, count = _owner(array)
    if core:
        core.prefetch(address, count)
    raise_notices(core)


TIERS = ("fresh", "resident", "standby", "stored", "cold", "swap")
"""Where a page can be, from the nearest tier down: never written, in the array's own memory, just out of it and not
compressed, compressed, compressed tighter, on the swap device. Below the budget all pages are `fresh` or `resident`."""


def tiers(array: Array) -> npt.NDArray[np.uint8]:
    """Return where each page under `array` is: one number a page, the place of its tier in TIERS.

    `array` is a paged array or any view of one. ValueError where it is not paged.
    """
    core, address, count = _owner(array)
    return np.frombuffer(core.tiers(address, count) if core else b"", dtype=np.uint8)


@contextmanager
def pin(array: _A) -> Iterator[_A]:
    """Keep the pages under `array` in RAM inside a `with` block.

    BudgetError where they would not fit, ValueError where the array is not paged.
    """
    core, address, count = _owner(array)
    if core:
        core.pin(address, count)
    try:
        raise_notices(core)
        yield array
    finally:
        if core:
            core.unpin(address, count)


def advise(array: Array, advice: Advice) -> None:
    """Tell how `array` will be used: `normal`, `sequential`, `random`, `cold` (first out), `willneed`.

    ValueError where it is not paged, or for other advice.
    """
    if advice not in _ADVICE:
        raise ValueError(f"advice must be one of {', '.join(_ADVICE)}, not {advice!r}")
    core, address, count = _owner(array)
    if core:
        core.advise(address, count, advice)
    raise_notices(core)


def is_paged(array: Array) -> bool:
    """Return whether all bytes under `array` are paged; False for an array without bytes."""
    address, count = byte_range(_ndarray(array))
    return bool(count) and _core.find(address, count) is not None


def raise_notices(core: _core.Memory | None) -> None:
    """Raise as warnings what the path of a page left to tell, each once; it cannot call Python itself."""
    for notice in core.notices() if core else ():
        warnings.warn(notice, warning_of(notice), stacklevel=4)


def _ndarray(array: object) -> Array:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"a numpy.ndarray is needed, not {type(array).__name__}")
    return array


def _owner(array: Array) -> tuple[_core.Memory | None, int, int]:
    """Return (memory, address, bytes) of an array; no memory where it has no bytes."""
    address, count = byte_range(_ndarray(array))
    if count == 0:
        return None, address, 0
    core = _core.find(address, count)
    if core is None:
        raise ValueError(
            "the array is not paged, so it cannot be steered: make it with a tmem.Memory, or inside tmem.limit with a "
            "threshold it reaches"
        )
    return core, address, count
