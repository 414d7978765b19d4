# SPDX-License-Identifier: Apache-2.0
"""The backends that come with tmem: the page store, plain copies, one that refuses all, and a pool as a backend.

Owns: their Python faces. Called by users and frontswap. The first three are native: pages pass by the interpreter, and
a Frontswap calls them without the GIL.
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from tmem import _core
from tmem.kinds import Size
from tmem.ops import FrontswapOps, Page
from tmem.outcome import OUTCOMES, Outcome, Reason, Refused
from tmem.units import parse_size

__all__ = ["DEFAULT_PAGES", "LocalBackend", "NativeBackend", "PlainCopies", "PoolBackend", "PoolVerbs", "RefuseAll"]

DEFAULT_PAGES = 1 << 20
"""Pages that an area or a backend has room for where nobody says: 4 GiB. It costs address space only."""


class NativeBackend(FrontswapOps):
    """A backend of the native module. Any threads of the process that made it may call its verbs at once."""

    def __init__(self, core: _core.Backend) -> None:
        self.core = core

    def init(self, area: int, pages: int) -> None:
        """Announce an area."""
        self.core.init(area, pages)

    def store(self, area: int, page: int, data: Page) -> Outcome:
        """Offer a page. ValueError where `data` is not a page long."""
        return OUTCOMES[self.core.store(area, page, data)]

    def load(self, area: int, page: int) -> bytes | None:
        """Return a stored page. PageLostError where it was taken and cannot be given back."""
        return self.core.load(area, page)

    def invalidate_page(self, area: int, page: int) -> None:
        """Forget a page."""
        self.core.invalidate_page(area, page)

    def invalidate_area(self, area: int) -> None:
        """Forget an area, and refuse its pages until the next init."""
        self.core.invalidate_area(area)

    def footprint(self) -> int:
        """Return the bytes of memory taken in this process, tables included."""
        return self.core.footprint()

    def check(self) -> list[str]:
        """Walk everything and return each broken law in words; an empty list when all is sound."""
        return self.core.check()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: the pages are here."""
        raise TypeError(
            f"{type(self).__name__} keeps its pages in this process and cannot be sent to another: "
            "name it, ops=['store'] or ops=['plain'], where a Memory is to have one of its own"
        )


class LocalBackend(NativeBackend):
    """The page store: same-filled and packed pages. With `raw`, pages that do not shrink are kept as they are.

    `capacity` is the most memory for packed pages, a size; `pages` is how many pages the index has room for.
    """

    def __init__(self, capacity: Size = "64M", *, pages: int = DEFAULT_PAGES, raw: bool = False) -> None:
        super().__init__(_core.Backend("store", pages=pages, capacity=parse_size(capacity, what="capacity"), raw=raw))

    def freeze(self) -> None:
        """Refuse every page from now on; loads and invalidations go on."""
        self.core.set_frozen(True)

    def thaw(self) -> None:
        """Take pages again."""
        self.core.set_frozen(False)


class PlainCopies(NativeBackend):
    """Keeps every page as it is. For tests, and to price what is around a backend. Up to 64 areas, `pages` in all."""

    def __init__(self, pages: int = DEFAULT_PAGES) -> None:
        super().__init__(_core.Backend("plain", pages=pages))


class RefuseAll(NativeBackend):
    """Refuses every page, so that all go to the next backend or the swap device."""

    def __init__(self) -> None:
        super().__init__(_core.Backend("refuse"))


class PoolVerbs(Protocol):
    """What a pool must do to be a backend: the verbs of `tmem.Pool`."""

    def put(self, obj: Any, index: int, page: Any, /) -> Any:
        """Offer a page; true where it was taken."""

    def get(self, obj: Any, index: int, /) -> Any:
        """Return a page, or None."""

    def flush_page(self, obj: Any, index: int, /) -> Any:
        """Forget a page."""

    def flush_object(self, obj: Any, /) -> Any:
        """Forget all pages of an object."""


class PoolBackend(FrontswapOps):
    """A pool as a backend: an area is an object of the pool, a page its index.

    The pool should be persistent. One that may drop pages serves a Frontswap with `writethrough=True` only.
    """

    def __init__(self, pool: PoolVerbs) -> None:
        self._pool = pool
        self._areas: dict[int, int] = {}

    def init(self, area: int, pages: int) -> None:
        """Announce an area; the pool itself knows none."""
        self._areas[area] = pages

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        """Put a page. Where the pool is not asked, it flushes first (law 3)."""
        if page >= self._areas.get(area, 0):
            self._pool.flush_page(area, page)
            return Refused(Reason.OUT_OF_RANGE if area in self._areas else Reason.NO_AREA)
        answer: Outcome | bool = self._pool.put(area, page, data)
        return answer

    def load(self, area: int, page: int) -> Page | None:
        """Get a page."""
        answer: Page | None = self._pool.get(area, page)
        return answer

    def invalidate_page(self, area: int, page: int) -> None:
        """Flush a page."""
        self._pool.flush_page(area, page)

    def invalidate_area(self, area: int) -> None:
        """Flush the area's object, and refuse its pages until the next init."""
        self._areas.pop(area, None)
        self._pool.flush_object(area)
