# SPDX-License-Identifier: Apache-2.0
"""Backends over a dict: a sound one, and some that each break one law. For every kind of test, and for processes."""

from __future__ import annotations

import os
import pickle
import time
from typing import Any

from tmem import FrontswapOps, Outcome, Reason, Refused

Handle = tuple[int, int]


class DictBackend(FrontswapOps):
    """Keeps every page, and every law."""

    def __init__(self) -> None:
        self.pages: dict[Handle, Any] = {}
        self.areas: dict[int, int] = {}

    def init(self, area: int, pages: int) -> None:
        self.areas[area] = pages

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        if area not in self.areas:
            return Refused(Reason.NO_AREA)
        self.pages[area, page] = bytes(data)
        return True

    def load(self, area: int, page: int) -> Any:
        return self.pages.get((area, page))

    def invalidate_page(self, area: int, page: int) -> None:
        self.pages.pop((area, page), None)

    def invalidate_area(self, area: int) -> None:
        self.areas.pop(area, None)
        for handle in [one for one in self.pages if one[0] == area]:
            del self.pages[handle]


class KeepsOldData(DictBackend):
    """Law 3: refuses what does not shrink, as a compressor may, and leaves what was there before."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        if len(set(bytes(data))) > 200:
            return Refused(Reason.INCOMPRESSIBLE)
        return super().store(area, page, data)


class Torn(DictBackend):
    """Law 8: writes only the first half over a page that is there."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        old = self.pages.get((area, page))
        taken = super().store(area, page, data)
        if old is not None and taken:
            self.pages[area, page] = bytes(data[:2048]) + old[2048:]
        return taken


class TornByThreads(DictBackend):
    """Law 8: writes in place, in two halves, with time for others in between. Alone, it is right."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        if area not in self.areas:
            return False
        place = self.pages.setdefault((area, page), bytearray(4096))
        if len(data) != len(place):
            raise ValueError("no page")
        place[:2048] = data[:2048]
        time.sleep(0)
        place[2048:] = data[2048:]
        return True

    def load(self, area: int, page: int) -> Any:
        found = self.pages.get((area, page))
        return None if found is None else bytes(found)


class KeepsTheFlushed(DictBackend):
    """Law 4: to forget is too much work."""

    def invalidate_page(self, area: int, page: int) -> None:
        pass


class KeepsTheView(DictBackend):
    """Law 2: the page is the caller's, and so is the view."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        if area not in self.areas:
            return False
        self.pages[area, page] = data
        return True


class KeepsABuffer(DictBackend):
    """Law 2: a buffer over the caller's memory is no copy."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        if area not in self.areas or len(data) != 4096:
            return False
        self.pages[area, page] = pickle.PickleBuffer(data)
        return True


class KeepsTheMemory(DictBackend):
    """Law 2: looks behind the view for the memory itself."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        if area not in self.areas:
            return False
        self.pages[area, page] = data.obj
        return True


class Forgets(DictBackend):
    """Law 5: has room for eight pages, and says nothing of those it drops."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        taken = super().store(area, page, data)
        while len(self.pages) > 8:
            del self.pages[next(iter(self.pages))]
        return taken


class MixesNeighbours(DictBackend):
    """Law 12: gives the page beside where the right one is not there."""

    def load(self, area: int, page: int) -> Any:
        if page % 4 == 2:
            return self.pages.get((area, page - 1)) or super().load(area, page)
        return super().load(area, page)


class MixesAreas(DictBackend):
    """Law 12: one table for all areas."""

    def load(self, area: int, page: int) -> Any:  # noqa: ARG002 - which is the defect
        return super().load(0, page)


class InventsPages(DictBackend):
    """Law 4: gives zeros for what was never stored."""

    def load(self, area: int, page: int) -> Any:
        return super().load(area, page) or bytes(4096)


class TakesAlways(DictBackend):
    """Takes pages of areas that ended."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        self.pages[area, page] = bytes(data)
        return True


class CutsPages(DictBackend):
    """Law 12: strips the zeros from the end, and does not put them back."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        return super().store(area, page, memoryview(bytes(data).rstrip(b"\0")))

    def load(self, area: int, page: int) -> Any:
        found = super().load(area, page)
        return None if found is None else found[:4000]


class PadsPages(DictBackend):
    """Law 12: whatever comes is made a page."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        return super().store(area, page, memoryview(bytes(data)[:4096].ljust(4096, b"\0")))


class FlipsBits(DictBackend):
    """Law 12: a bit is wrong now and then."""

    def load(self, area: int, page: int) -> Any:
        found = super().load(area, page)
        return found if found is None or page != 7 else found[:100] + bytes([found[100] ^ 1]) + found[101:]


class Raises(DictBackend):
    """Raises where it should refuse, and where a page is asked for that is not there."""

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        if page == 3:
            raise RuntimeError("no room")
        return super().store(area, page, data)

    def load(self, area: int, page: int) -> Any:
        return self.pages[area, page]


class AnswersNothing(DictBackend):
    """Law 1: forgets to say what became of the page."""

    def store(self, area: int, page: int, data: memoryview) -> Any:
        super().store(area, page, data)


class Hangs(DictBackend):
    """Never answers for page numbers from `first` on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        while page >= self.first:
            time.sleep(60)
        return super().store(area, page, data)


class Refuses(DictBackend):
    """Takes the first `room` pages and refuses those that follow, until some are invalidated."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        self.pages.pop((area, page), None)
        return len(self.pages) < self.room and super().store(area, page, data)


class Exits(DictBackend):
    """Ends its process when page `last` comes."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def store(self, area: int, page: int, data: memoryview) -> Outcome | bool:
        if page == self.last:
            os._exit(3)
        return super().store(area, page, data)


class DictPool:
    """A pool with the four verbs, over a dict."""

    def __init__(self) -> None:
        self.pages: dict[tuple[Any, int], bytes] = {}

    def put(self, obj: Any, index: int, page: Any) -> Outcome | bool:
        self.pages[obj, index] = bytes(page)
        return True

    def get(self, obj: Any, index: int) -> bytes | None:
        return self.pages.get((obj, index))

    def flush_page(self, obj: Any, index: int) -> bool:
        return self.pages.pop((obj, index), None) is not None

    def flush_object(self, obj: Any) -> int:
        found = [one for one in self.pages if one[0] == obj]
        for handle in found:
            del self.pages[handle]
        return len(found)
