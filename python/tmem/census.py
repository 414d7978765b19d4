# SPDX-License-Identifier: Apache-2.0
"""A census of NumPy's large arrays: how many of their bytes are paged, and where the others come from.

Owns: the walk over the objects of this process. Called by process. Calls NumPy and the native module.
NumPy cannot list its arrays, and the garbage collector does not track them; but what holds them it does track, or some
running function has them in a variable. What only C code holds stays unseen.
"""

from __future__ import annotations

import gc
import inspect
import mmap
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import Any, TypeGuard

import numpy as np

from tmem import _core
from tmem.array import Array, byte_range

__all__ = ["LARGE", "NumpyBytes", "count_numpy"]

LARGE = 64 << 10
"""Arrays of fewer bytes than this are not counted unless a smaller size is asked for."""

_one_at_a_time = threading.RLock()  # two would find each other's lists, and grow without end
_UNSHARED = 3  # references to a frame's copy of its variables: the frame's, ours, and that of the call that counts


@dataclass(frozen=True, slots=True, kw_only=True)
class NumpyBytes:
    """The large NumPy arrays alive, in bytes of memory, each byte counted once however many views it has."""

    managed: int = 0  # paged by some Memory or limit
    escaped: int = 0  # plain memory
    arrow: int = 0  # of pyarrow's own pools: pandas keeps strings there, and NumPy has no part in it
    by_owner: Mapping[str, int] = field(default_factory=dict)  # of the escaped: who owns them

    @property
    def share(self) -> float:
        """How much of it is managed, from 0 to 1; 1 where there is nothing to manage."""
        whole = self.managed + self.escaped
        return self.managed / whole if whole else 1.0


def count_numpy(large: int = LARGE) -> NumpyBytes:
    """Return the census of arrays of `large` bytes or more. Takes time: about a second for a million objects."""
    managed = 0
    escaped: Counter[str] = Counter()
    with _one_at_a_time:
        for count, name in _owners(large):
            if name:
                escaped[name] += count
            else:
                managed += count
    pyarrow = sys.modules.get("pyarrow")
    arrow = int(pyarrow.total_allocated_bytes()) if pyarrow is not None else 0
    return NumpyBytes(managed=managed, escaped=escaped.total(), arrow=arrow, by_owner=dict(escaped.most_common()))


def _renew() -> None:
    """In a forked child: whoever held the lock stayed in the parent."""
    global _one_at_a_time  # noqa: PLW0603 - a lock that nobody can release has no other cure
    _one_at_a_time = threading.RLock()


os.register_at_fork(after_in_child=_renew)


def _owners(large: int) -> Iterator[tuple[int, str]]:
    """Yield (bytes, owner) of each piece of memory that arrays lie in; no owner for what is paged, none of files."""
    seen: set[int] = set()
    for array in _arrays():
        owner = array
        base: object = array.base
        while isinstance(base, np.ndarray):
            owner, base = base, base.base
        address, count = byte_range(owner)
        if count < large or address in seen:
            continue
        seen.add(address)
        if _core.find(address, count) is not None:
            yield count, ""
        elif base is None:
            yield count, "numpy"
        elif not isinstance(base, mmap.mmap):
            yield count, _name(base)


def _name(base: object) -> str:
    source = base.obj if isinstance(base, memoryview) else base
    kind = type(source)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _arrays() -> Iterator[Array]:
    """Yield every array that can be found, some of them more than once."""
    tracked = _core.tracked()  # no tuples: those are reached through what holds them
    for found in tracked:  # subclasses are tracked
        if _is_array(found):
            yield found
    reached: set[int] = set()
    # A module's variables are in a dictionary, which is tracked. What its C code keeps is left alone: in 3.12.1 asyncio
    # shows the collector objects that it has freed, and looking at those frees them twice.
    safe = [found for found in tracked if not issubclass(type(found), ModuleType)]
    waiting: list[Any] = [gc.get_referents(*safe), _variables()]
    while waiting:
        holders = []
        for found in waiting.pop():
            if _is_array(found):
                yield found
            elif _is_open(found) and id(found) not in reached:
                reached.add(id(found))
                holders.append(found)
        if holders:
            waiting.append(gc.get_referents(*holders))


def _is_array(found: object) -> TypeGuard[Array]:
    """Return whether it is an array, by its type alone: `isinstance` would ask proxies, which run code or raise."""
    return issubclass(type(found), np.ndarray)


def _is_open(found: object) -> bool:
    """Return whether arrays may be in it that were not reached through what is tracked."""
    return issubclass(type(found), tuple) or (issubclass(type(found), dict) and not gc.is_tracked(found))


def _variables() -> list[object]:
    """Return what running functions have in their variables, of every thread, and leave nothing behind in them.

    Without a GIL the other threads run meanwhile, and only this one's functions can be looked into.
    """
    frames: list[FrameType | None] = [sys._getframe()]  # noqa: SLF001 - documented, and the only way
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        frames = list(sys._current_frames().values())  # noqa: SLF001
    found: list[object] = []
    while frames:  # emptied on the way: a frame that has itself in a variable would live on, with all below it
        frame = frames.pop()
        while frame is not None:
            if frame.f_globals is not globals():
                found += _values(frame)
            frame = frame.f_back
    return found


def _values(frame: FrameType) -> list[object]:
    """Return the values of a function's variables.

    Before 3.13 reading them leaves a copy in the frame, which keeps arrays alive after the variable is gone. It is
    emptied, unless it is somebody's `locals()`, or a debugger is about to write it back.
    """
    variables = frame.f_locals
    values = list(variables.values())
    is_copy = type(variables) is dict and frame.f_code.co_flags & inspect.CO_OPTIMIZED
    if is_copy and sys.getrefcount(variables) <= _UNSHARED and not (sys.gettrace() or threading.gettrace()):
        variables.clear()
    return values
