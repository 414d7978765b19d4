# SPDX-License-Identifier: Apache-2.0
"""The five verbs between whoever evicts pages and whoever keeps them, for backends written in Python.

Owns: the contract. Implemented by backends and by anybody; called by the hook (frontswap, or a pager through a
process). Laws 1 to 5, 7 and 8 bind every implementer; `tmem.testing.check_ops` tells which of them one breaks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from tmem.outcome import Outcome

__all__ = ["PAGE_SIZE", "FrontswapOps", "Page"]

PAGE_SIZE = 4096
"""Bytes of a page."""

Page = bytes | bytearray | memoryview
"""The contents of a page, as a backend may give them: any contiguous buffer of PAGE_SIZE bytes will do."""


class FrontswapOps(ABC):
    """A backend of the frontswap hook: swap to a hypervisor, compressed swap, or whatever keeps pages.

    A handle is (area, page): an area is one owner's range of pages, numbered from 0. The hook makes one call at a time.
    An exception out of a verb is logged and means: not stored (store), lost (load).
    """

    @abstractmethod
    def init(self, area: int, pages: int) -> None:
        """Learn that pages 0 to `pages` - 1 of `area` may be stored from now on. Forget nothing that is stored."""

    @abstractmethod
    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        """Take a page, or refuse it; return which. Refusing is allowed at any time, for any reason (law 1).

        `data` is PAGE_SIZE read-only bytes that are gone when the call returns: copy what you keep (law 2). Whatever
        you answer, an older page under the handle must be gone (law 3). Refuse in an area that is not announced.
        """

    @abstractmethod
    def load(self, area: int, page: int) -> Page | None:
        """Return the PAGE_SIZE bytes last taken under the handle, None where there are none. They stay stored."""

    @abstractmethod
    def invalidate_page(self, area: int, page: int) -> None:
        """Forget a page: a later load gives None (law 4). Nothing happens where there is none (law 7)."""

    @abstractmethod
    def invalidate_area(self, area: int) -> None:
        """Forget all pages of `area`, and refuse its stores until the next init."""
