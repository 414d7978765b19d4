# SPDX-License-Identifier: Apache-2.0
"""Frontswap for a Python program: pages on their way out are offered to backends first, then to a swap device.

Owns: Frontswap, SwapDevice and their statistics. Called by users. Calls backends and the native module, which has the
hook. Law 3: whatever a store answers, the old page is gone. Law 12: a page that cannot come back is an error, never
other bytes.
"""

from __future__ import annotations

import heapq
import itertools
import operator
import os
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, SupportsIndex, overload

from tmem import _core
from tmem.backends import DEFAULT_PAGES, NativeBackend
from tmem.errors import ClosedError, TmemError, TmemWarning
from tmem.failures import report
from tmem.kinds import Size
from tmem.ops import PAGE_SIZE, FrontswapOps
from tmem.outcome import OUTCOMES, Outcome
from tmem.swapdir import plan_swap
from tmem.units import parse_size

__all__ = ["Frontswap", "FrontswapStats", "SwapDevice", "SwapDeviceStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapDeviceStats:
    """One reading of a swap device. `cap` and `used` are bytes, the rest are counts of pages."""

    cap: int
    used: int
    written: int
    read: int
    corrupt: int  # pages that came back changed
    io_errors: int
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontswapStats:
    """One reading of a Frontswap: counts of pages. The first four have their historical names and are the hook's."""

    loads: int  # pages that a backend gave back
    succ_stores: int  # pages that a backend took
    failed_stores: int  # pages that none took
    invalidates: int  # pages of backends that were forgotten on request
    pages: int  # with the backends now
    device_pages: int  # on the swap device now
    device_writes: int
    device_reads: int
    refused: Mapping[str, int] = field(default_factory=dict)  # failed_stores by the reason of the last backend asked
    device_refused: Mapping[str, int] = field(default_factory=dict)  # what the swap device refused, by reason


class SwapDevice:
    """A file without a name for pages, capped at `size`, checksummed, gone with the process. Frontswaps may share it.

    `directory` is where; by default the first of $TMPDIR, /var/tmp, /tmp and . that is on a disk.
    Raises SizeError for a size that cannot be meant, SwapError where no such file can be made.
    """

    def __init__(self, size: Size, directory: str | os.PathLike[str] | None = None) -> None:
        count = parse_size(size, what="size")
        plan = plan_swap(count if directory is None else (directory, count), count)
        if plan.directory is None:
            raise TmemError("a swap device needs a directory: name one, SwapDevice(size, '/dir')")
        if plan.warning:
            warnings.warn(plan.warning, TmemWarning, stacklevel=2)
        self._core = _core.SwapDevice(plan.directory, plan.count)

    def stats(self) -> SwapDeviceStats:
        """Return the counters as they are now."""
        raw: dict[str, Any] = self._core.stats()
        sizes = {name: raw.pop(name) * PAGE_SIZE for name in ("cap", "used")}
        return SwapDeviceStats(**sizes, **raw)

    def check(self) -> list[str]:
        """Walk the slots and return each broken law in words; an empty list when all is sound."""
        return self._core.check()

    def close(self) -> None:
        """End the file. TmemError while a Frontswap has pages on it. Twice does no harm."""
        try:
            left = self._core.close()
        except ClosedError:
            return
        if left:
            raise TmemError(f"the swap device still holds {left} page(s): close the Frontswaps that use it first")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Frontswap:
    """A hook over backends `ops`, asked in order, with an optional swap device below. For one area of `pages` pages.

    A store is a swap-out: what every backend refuses falls through to the device, and what that refuses is refused.
    `writethrough`: a page that a backend took goes to the device as well, and counts as stored only where that took
    it; the backend may then forget it at any time. It needs a device.
    `exclusive`: a load takes the page out, from the backends and from the device: the caller has the only copy.

    Several may share a backend: each has an `area` of its own, numbered as low as possible. Any thread may call; calls
    are made one after another. A backend must not call the Frontswap that calls it (TmemError). A forked child makes
    its own.
    """

    def __init__(
        self,
        swap_device: SwapDevice | None,
        ops: Iterable[FrontswapOps] = (),
        *,
        pages: int = DEFAULT_PAGES,
        writethrough: bool = False,
        exclusive: bool = False,
    ) -> None:
        backends = [_native(one) for one in ops]
        self._pages = _positive(pages)
        area = _AREAS.take()
        try:
            self._core = _core.Frontswap(
                None if swap_device is None else swap_device._core,  # noqa: SLF001 - of this module
                backends,
                area=area,
                pages=self._pages,
                writethrough=writethrough,
                exclusive=exclusive,
                report=report,
            )
        except BaseException:
            _AREAS.give(area)
            raise
        self._end = weakref.finalize(self, _close, self._core, area, os.getpid())
        self._end.atexit = False

    @property
    def area(self) -> int:
        """The number under which backends know this area."""
        return self._core.area

    def store(self, page: int, data: Any) -> Outcome:
        """Swap a page out: return Stored where anything holds it now, else Refused with the last reason given.

        `data` is any contiguous buffer of 4096 bytes, the caller's again when this returns. Whatever is answered, what
        was stored under `page` before is gone, from the backends and from the device. A backend that raises has
        refused: it is logged and counted as `backend_failed`. ValueError for another length or a negative page.
        """
        return OUTCOMES[self._core.store(_number(page), data)]

    @overload
    def load(self, page: int, into: None = None) -> bytes | None: ...
    @overload
    def load(self, page: int, into: Any) -> bool: ...
    def load(self, page: int, into: Any = None) -> bytes | bool | None:
        """Swap a page in: return its bytes, or None where it is not stored.

        With a writable buffer `into`, of 4096 bytes, the page is copied there, and the answer is whether there was one.
        PageLostError where it was stored and cannot be given back; it stays lost until it is stored again or
        invalidated.
        """
        if into is None:
            return self._core.load(_number(page))
        return self._core.load_into(_number(page), into)

    def invalidate_page(self, page: int) -> None:
        """Forget a page wherever it is; nothing happens where it is not stored."""
        self._core.invalidate_page(_number(page))

    def invalidate_area(self) -> None:
        """Forget every page; stores are refused (`no_area`) until the next init()."""
        self._core.invalidate_area()

    def init(self, pages: int | None = None) -> None:
        """Announce the area again, after invalidate_area() or with another number of pages. Forgets nothing."""
        wanted = self._pages if pages is None else _positive(pages)
        self._core.init(wanted)
        self._pages = wanted

    def register(self, ops: FrontswapOps) -> None:
        """Add a backend, to be asked after those there are. It learns of the area at once."""
        self._core.register(_native(ops))

    def __contains__(self, page: int) -> bool:
        return self._core.holds(_number(page))

    def stats(self) -> FrontswapStats:
        """Return the counters as they are now."""
        return FrontswapStats(**self._core.stats())

    def check(self) -> list[str]:
        """Walk the hook, its native backends and the device; return each broken law in words. Slow."""
        return self._core.check()

    def close(self) -> None:
        """Forget every page and tell the backends that the area has ended. Twice does no harm."""
        self._end()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return not self._end.alive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Areas:
    """Numbers for areas, the lowest free one first: backends with tables have room for few."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = itertools.count()
        self._lock = threading.RLock()  # a finalizer may come in the middle

    def take(self) -> int:
        with self._lock:
            return heapq.heappop(self._free) if self._free else next(self._next)

    def give(self, area: int) -> None:
        with self._lock:
            heapq.heappush(self._free, area)


_AREAS = _Areas()


def _close(core: _core.Frontswap, area: int, process: int) -> None:
    if os.getpid() == process:  # a forked child has nothing of its own here
        core.close()
        _AREAS.give(area)


def _native(ops: FrontswapOps) -> object:
    """Return what the hook calls: the native backend itself where nobody changed its verbs."""
    if not isinstance(ops, FrontswapOps):
        raise TypeError(f"a backend must be a tmem.FrontswapOps, not {type(ops).__name__}: derive a class from it")
    if isinstance(ops, NativeBackend) and all(
        getattr(type(ops), verb) is getattr(NativeBackend, verb)
        for verb in ("init", "store", "load", "invalidate_page", "invalidate_area")
    ):
        return ops.core
    return ops


def _number(page: SupportsIndex) -> int:
    number = operator.index(page)
    if not 0 <= number < 1 << 63:
        raise ValueError(f"page {number} is no page number: they begin at 0")
    return number


def _positive(pages: SupportsIndex) -> int:
    count = operator.index(pages)
    if not 0 < count < 1 << 40:
        raise ValueError(f"pages must be 1 or more, and fewer than 2**40, not {count}")
    return count
