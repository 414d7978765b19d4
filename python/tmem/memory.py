# SPDX-License-Identifier: Apache-2.0
"""Memory: one RAM budget, and the arrays that live under it.

Owns: what a caller may ask of a Memory. Called by users, cli, demo. Calls array, limits, swapdir, stats and the native
module, which does the paging. Nothing here is on the path of a page.
Law: a Memory that is closed unmaps nothing; its arrays stay valid for as long as anything refers to them.
"""

from __future__ import annotations

import atexit
import itertools
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from tmem import _core, hostpath, steering
from tmem.array import Array, Order, Shape, byte_range, element_type, file_layout, fill, nbytes_of, order_of, shape_of
from tmem.backendprocess import ANSWER_SECONDS, BackendProcess, end_all, start_all
from tmem.counters import PAGE, Stats, make_stats
from tmem.errors import ClosedError, TmemWarning
from tmem.kinds import Size, Swap
from tmem.limits import budget_of
from tmem.ops import FrontswapOps
from tmem.steering import Advice, raise_notices
from tmem.swapdir import plan_swap
from tmem.units import format_size, parse_size

__all__ = ["MINIMUM_RAM", "Memory", "native", "numpy_allocator", "raise_notices_of"]

MINIMUM_RAM = _core.MIN_RAM
"""The smallest budget, in bytes: below it the pager's own tables and frames would be most of it."""

_FAULTS = ("auto", "signal", "thread")
_LONGEST_NAME = 63
_NUMBERS = itertools.count(1)

_A = TypeVar("_A", bound=Array)

atexit.register(_core.finalize)


class Memory:
    """RAM for arrays under one budget: what does not fit is compressed, and beyond that goes to a swap device.

    `ram` is the budget for everything: pages in RAM, compressed pages, metadata. Bytes, or text such as `2G`
    (1024-based), `512MiB`, `1.5GB` (1000-based), `50%` and `auto` (half) of what the machine or the cgroup allows.
    `swap` is `auto` (a file without a name in a directory on a disk, at most 16 times `ram` and half of what is
    free), `none` or None, a size, a directory, or (directory, size).
    `faults` is how missing pages are served: `auto`, `signal` (in the faulting thread) or `thread` (by a thread that
    reads the userfaultfd).
    `dedup` is which pages the store looks up among those it has, and keeps once: `auto` a few, and all as long as
    enough of them are there already; `on` all; `off` none. Every byte is compared first.
    `name` shows in `tmem stats` and in messages.
    `ops` is who is offered the pages before the swap device, in order: `store` (the page store, and all there is by
    default) or a FrontswapOps, which is pickled to a process of its own; that process and its memory are not in the
    budget. Where it dies, what only it had is lost, and the program stops when it needs such a page.
    `host` is the daemon that lends memory beside the budget, and may ask for it back: the path of its socket, or
    `auto`, which is TMEM_HOST or the first socket found where daemons have theirs; without one the memory works alone.
    `background` lets a thread of tmem's pack pages tighter that stay cold, when the processor is idle.

    Raises SizeError for a budget below 16 MiB or above what may be used, SwapError for a swap device that cannot be
    made, KernelUnsupported where faults cannot be served, TypeError for a backend that cannot be sent to a process.
    """

    def __init__(  # noqa: PLR0913 - each says another thing about the memory
        self,
        ram: Size,
        *,
        swap: Swap = "auto",
        faults: str = "auto",
        dedup: str = "auto",
        name: str | None = None,
        ops: Sequence[FrontswapOps | str] | None = None,
        host: str | os.PathLike[str] | None = None,
        background: bool = True,
    ) -> None:
        if faults not in _FAULTS:
            raise ValueError(f"faults must be one of {', '.join(_FAULTS)}, not {faults!r}")
        if name is not None and (not name.isprintable() or not 0 < len(name.encode()) <= _LONGEST_NAME):
            raise ValueError(f"name must be 1 to {_LONGEST_NAME} printable bytes, not {name!r}")
        budget = budget_of(ram, MINIMUM_RAM)
        plan = plan_swap(swap, budget)
        self._backends = start_all(ops)
        try:
            self._core = _core.Memory(
                budget,
                swap_dir=plan.directory,
                swap_bytes=plan.count,
                faults=faults,
                name=name or f"memory-{next(_NUMBERS)}",
                backends=[b.socket.fileno() if isinstance(b, BackendProcess) else b for b in self._backends],
                limit_ms=int(ANSWER_SECONDS * 1000),
                background=background,
                dedup=dedup,
                host=hostpath.of_guest(host, name),
            )
        except BaseException:
            end_all(self._backends, 0.0)
            raise
        for one in self._backends:
            if isinstance(one, BackendProcess):
                one.socket.close()  # the pager has a descriptor of its own
        self._final = Stats()
        if plan.warning:
            warnings.warn(plan.warning, TmemWarning, stacklevel=2)
        self._drain()

    # Making arrays

    def empty(self, shape: Shape, dtype: npt.DTypeLike = float, order: Order = "C") -> Array:
        """Return a new array; its contents are zeros, but do not rely on it."""
        return self.zeros(shape, dtype, order)

    def zeros(self, shape: Shape, dtype: npt.DTypeLike = float, order: Order = "C") -> Array:
        """Return a new array of zeros.

        It is a plain numpy.ndarray whose base owns its pages: views keep them, the last reference frees them.
        Raises BudgetError where neither RAM nor the tiers below have room, ClosedError after close().
        """
        result = self._new(shape_of(shape), element_type(dtype), order_of(order))
        self._drain()
        return result

    def full(
        self, shape: Shape, fill_value: npt.ArrayLike, dtype: npt.DTypeLike | None = None, order: Order = "C"
    ) -> Array:
        """Return a new array filled with `fill_value`, which also gives the dtype where none is named."""
        kind = np.asarray(fill_value).dtype if dtype is None else dtype
        result = self._new(shape_of(shape), element_type(kind), order_of(order))
        np.copyto(result, fill_value, casting="unsafe")
        self._drain()
        return result

    def array(
        self, source: npt.ArrayLike, dtype: npt.DTypeLike | None = None, order: Literal["K", "C", "F"] = "K"
    ) -> Array:
        """Return a new array with the values of `source`.

        What is no array yet (a list, say) becomes a plain one on the way. `K` keeps column order where there is one.
        """
        plain = np.asarray(source)
        if order == "K":
            order = "F" if plain.flags.fnc else "C"
        result = self._new(plain.shape, element_type(plain.dtype if dtype is None else dtype), order_of(order))
        np.copyto(result, plain, casting="unsafe")
        self._drain()
        return result

    def from_file(
        self,
        path: str | os.PathLike[str],
        dtype: npt.DTypeLike | None = None,
        shape: Shape | None = None,
        *,
        offset: int = 0,
        order: Order = "C",
    ) -> Array:
        """Return a new array with the contents of a file: a `.npy`, or a raw one if its `dtype` is given.

        Of a raw file, `offset` bytes are skipped, and `shape` defaults to all the rest in one dimension. It is read in
        pieces of a few MiB. OSError where it cannot be read, ValueError where it is not what was said.
        """
        source = Path(path)
        lengths, kind, start, layout = file_layout(source, dtype, shape, offset, order_of(order))
        result = self._new(lengths, kind, layout)
        fill(result, source, start)
        self._drain()
        return result

    # Steering

    def prefetch(self, array: Array) -> None:
        """Bring the pages under `array` into RAM, as far as the budget has room for them."""
        self._claim(array)
        steering.prefetch(array)

    def evict(self, array: Array) -> int:
        """Send the pages under `array` out of RAM now; return how many bytes left. Pinned pages stay."""
        self._claim(array)
        return steering.evict(array)

    @contextmanager
    def pin(self, array: _A) -> Iterator[_A]:
        """Keep the pages under `array` in RAM inside a `with` block. BudgetError where they would not fit."""
        self._claim(array)
        with steering.pin(array):
            yield array

    def advise(self, array: Array, advice: Advice) -> None:
        """Tell how `array` will be used: `normal`, `sequential`, `random`, `cold` (first out), `willneed`."""
        self._claim(array)
        steering.advise(array, advice)

    def settle(self) -> None:
        """Pack all that is compressed as tightly as can be now, as happens by itself to pages that stay cold.

        It takes some 50 microseconds for each page that was not looked at before, in the calling thread.
        """
        self._core.settle()
        self._drain()

    def resize(self, ram: Size) -> None:
        """Change the budget to `ram`, a size or a share as for a new Memory.

        When it returns, a smaller one holds, or is overshot where pages are pinned, which is counted. SizeError as for
        a new Memory; KernelUnsupported where paging would have to begin and cannot: the budget is then what it was.
        """
        if self.closed:
            raise ClosedError(f"{self.name} is closed, and its budget stays as it is: make a new Memory")
        self._core.resize(budget_of(ram, MINIMUM_RAM))
        self._drain()

    def unstore(self, ram: Size) -> int:
        """Bring up to `ram` bytes of stored pages back into unused RAM, the oldest first; return how many.

        No page leaves RAM for it, and the swap device is not read. Stored copies of pages in RAM go, and count.
        """
        return self._core.unstore(parse_size(ram, whole=self.ram, what="ram") // PAGE) * PAGE

    # Looking

    def tiers(self, array: Array) -> npt.NDArray[np.uint8]:
        """Return where each page under `array` is: one number a page, the place of its tier in `tmem.TIERS`."""
        self._claim(array)
        return steering.tiers(array)

    def stats(self) -> Stats:
        """Return the counters as they are now; once closed and without arrays, as they were at close()."""
        try:
            result = make_stats(self._core.stats())
        except ClosedError:
            return self._final
        self._drain()
        return result

    def check(self) -> list[str]:
        """Walk everything and return each broken law in words; an empty list when all is sound. Slow."""
        return self._core.check()

    @property
    def ram(self) -> int:
        """The budget in bytes."""
        return self._core.ram

    @property
    def name(self) -> str:
        """The name given, or one made up."""
        return self._core.name

    @property
    def faults(self) -> str:
        """The fault entry in force: `signal` or `thread`."""
        return self._core.faults

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._core.closed

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<tmem.Memory {self.name!r} ram={format_size(self.ram)} faults={self.faults}{state}>"

    # Ending

    def close(self) -> None:
        """Make no more arrays. Those alive stay valid, and a ResourceWarning counts them. Twice does no harm."""
        try:
            final = make_stats(self._core.stats())
        except ClosedError:
            return  # by another thread, to its very end
        if self.closed:
            return
        self._final = final
        alive = self._core.close()
        if alive:
            text = f"{self.name} closed with {alive} array(s) alive: they stay valid until the last reference goes"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)
        else:
            end_all(self._backends)
        self._drain()

    def __enter__(self) -> Self:
        if self.closed:
            raise ClosedError(f"{self.name} is closed: make a new Memory")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Within

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Order) -> Array:
        if self.closed:
            raise ClosedError(f"{self.name} is closed and makes no new arrays: make a new Memory")
        count = nbytes_of(shape, dtype)
        if count == 0:
            return np.empty(shape, dtype, order)  # no byte, so nothing to manage
        return np.ndarray(shape, dtype, buffer=memoryview(self._core.allocate(count)), order=order)

    def _claim(self, array: Array) -> None:
        """Raise where `array` is none of ours, or can no longer be steered."""
        if not isinstance(array, np.ndarray):
            raise TypeError(f"a numpy.ndarray of this Memory is needed, not {type(array).__name__}")
        if self.closed:
            raise ClosedError(f"{self.name} is closed: its arrays are valid, but can no longer be steered")
        address, count = byte_range(array)
        if count and not self._core.owns(address, count):
            raise ValueError(f"the array is not one of {self.name}: copy it there first, {self.name}.array(a)")

    def _drain(self) -> None:
        raise_notices(self._core)


def raise_notices_of(memory: Memory) -> None:
    """Raise as warnings what the path of a page had to tell in `memory`."""
    raise_notices(memory._core)  # noqa: SLF001 - in the module that owns it


def numpy_allocator(memory: Memory, threshold: int, small: str) -> _core.Allocator:
    """Return the allocator that NumPy is handed to have its arrays in `memory`; see numpylimit."""
    return memory._core.allocator(threshold, small)  # noqa: SLF001 - in the module that owns it


def native(memory: Memory) -> _core.Memory:
    """Return what lends room to a cache; see cache."""
    return memory._core  # noqa: SLF001 - in the module that owns it
