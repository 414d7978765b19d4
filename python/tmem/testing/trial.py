# SPDX-License-Identifier: Apache-2.0
"""One backend on trial: its verbs, each beside a plain dict, and the laws that it was seen to break.

Owns: the model and the words. Called by check, and by property tests, which choose the verbs themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tmem.ops import PAGE_SIZE, FrontswapOps
from tmem.outcome import Refused, Stored
from tmem.testing.pages import first_difference, is_mixture

__all__ = ["Trial"]

Handle = tuple[int, int]

_SCRIBBLE = b"\xdb" * PAGE_SIZE
_REMEMBERED = 6  # older contents of a handle: more, and noise would pass for a mixture
_MOST = 20  # broken laws told; the rest is repetition


class Trial:
    """Drives `ops` and compares. `broken` is what was found, in words; empty as long as the laws are kept.

    `exclusive` says that a load takes the page out, as with a Frontswap of that kind.
    """

    def __init__(self, ops: FrontswapOps, *, exclusive: bool = False) -> None:
        self.ops = ops
        self.broken: list[str] = []
        self.areas: dict[int, int] = {}
        self._exclusive = exclusive
        self._stored: dict[Handle, bytes] = {}
        self._older: dict[Handle, deque[bytes]] = {}
        self._gone: dict[Handle, str] = {}  # how a handle came to hold nothing
        self._unsure: set[Handle] = set()  # found broken: what it holds is not known until the next store

    @property
    def stored(self) -> dict[Handle, bytes]:
        """What must be there, by handle."""
        return self._stored

    def init(self, area: int, pages: int) -> None:
        """Announce an area."""
        self._call("init", area, pages)
        self.areas[area] = pages

    def store(self, area: int, page: int, data: bytes) -> bool:
        """Offer a page; return whether it was taken. Refused, it is looked for at once: law 3."""
        handle = area, page
        had = handle in self._stored
        answer = self._offer(area, page, data)
        self._remember(handle, self._stored.pop(handle, None))
        if answer is None:
            return False
        if not answer:
            self._remember(handle, data)
            self._gone[handle] = "was refused"
            self._unsure.discard(handle)
            if had:
                self.load(area, page)
            return False
        if area not in self.areas:
            self.note(f"law 1: area {area} is not announced, and {_name(handle)} was taken: refuse until the next init")
            self._unsure.add(handle)
            return True
        self._stored[handle] = data
        self._unsure.discard(handle)
        return True

    def load(self, area: int, page: int) -> None:
        """Load a page and compare."""
        handle = area, page
        done, found = self._call("load", area, page)
        if not done or handle in self._unsure:
            self._unsure.add(handle)
            return
        expected = self._stored.get(handle)
        got = None if found is None else self._bytes(handle, found)
        if got != expected or (found is not None and got is None):
            self._unsure.add(handle)
            if found is None or got is not None:
                self.note(self._missing(handle, got) if expected is None else self._wrong(handle, got, expected))
        elif expected is not None and self._exclusive:
            self._forget(handle, "was taken out by a load")

    def invalidate_page(self, area: int, page: int) -> None:
        """Forget a page."""
        self._call("invalidate_page", area, page)
        self._forget((area, page), "was invalidated")

    def invalidate_area(self, area: int) -> None:
        """Forget an area."""
        self._call("invalidate_area", area)
        self.areas.pop(area, None)
        for handle in [one for one in {*self._stored, *self._unsure} if one[0] == area]:
            self._forget(handle, "was in an area that was invalidated")

    def sweep(self) -> None:
        """Load every page that must be there, and every one that must not."""
        for area, page in sorted({*self._stored, *self._gone}):
            self.load(area, page)

    def store_wrong_size(self, area: int, page: int, count: int) -> None:
        """Offer `count` bytes. To refuse or to raise ValueError is right; what is taken must come back as it was."""
        data = bytes(index % 251 for index in range(count))
        self._forget((area, page), "was invalidated")
        try:
            taken = bool(self.ops.store(area, page, memoryview(data)))
            found = self.ops.load(area, page)
        except ValueError:
            taken, found = False, None
        except Exception as error:  # noqa: BLE001 - told, whatever it is
            self.note(f"store of {count} bytes raised {_told(error)}: raise ValueError, or refuse")
            return
        if found is not None and (not taken or bytes(found) != data):
            self.note(f"law 12: {_name((area, page))} was offered with {count} bytes, and a load gives something else")
        self.invalidate_page(area, page)

    def note(self, text: str) -> None:
        """Note a broken law, once."""
        if text not in self.broken and len(self.broken) < _MOST:
            self.broken.append(text)

    # Within

    def _offer(self, area: int, page: int, data: bytes) -> bool | None:
        """Store from memory that is the caller's again afterwards; None where the verb raised."""
        memory = bytearray(data)
        view = memoryview(memory).toreadonly()
        done, answer = self._call("store", area, page, view)
        memory[:] = _SCRIBBLE
        try:
            view.release()
        except BufferError:
            self.note("law 2: store keeps a view of the caller's memory after it returned: copy the page")
        if not done:
            self._unsure.add((area, page))
            return None
        if not isinstance(answer, Stored | Refused | bool):
            self.note(f"law 1: store answered {type(answer).__name__}: answer Stored, Refused or a bool")
        return bool(answer)

    def _call(self, verb: str, area: int, *rest: Any) -> tuple[bool, Any]:
        call: Callable[..., Any] = getattr(self.ops, verb)
        try:
            return True, call(area, *rest)
        except Exception as error:  # noqa: BLE001 - told, whatever it is
            where = _name((area, rest[0])) if rest and verb != "init" else f"area {area}"
            if "released memoryview" in str(error):
                self.note(f"law 2: {verb} of {where} uses the caller's memory of an earlier store: copy the page")
            else:
                self.note(f"{verb} of {where} raised {_told(error)}: a verb answers, it does not raise")
            return False, None

    def _bytes(self, handle: Handle, found: Any) -> bytes | None:
        try:
            got = bytes(memoryview(found))
        except (TypeError, ValueError, BufferError) as error:
            if "released memoryview" in str(error):
                self.note(
                    f"law 2: load of {_name(handle)} gives the caller's memory of an earlier store: copy the page"
                )
            else:
                self.note(f"load of {_name(handle)} gave {type(found).__name__}: give a buffer, or None")
            return None
        if len(got) != PAGE_SIZE:
            self.note(f"law 12: load of {_name(handle)} gave {len(got)} bytes, not the {PAGE_SIZE} of a page")
            return None
        return got

    def _missing(self, handle: Handle, got: bytes | None) -> str:
        """Tell why a page that must not be there is."""
        how = self._gone.get(handle, "was never stored")
        if how == "was refused":
            latest = self._older[handle][-1]
            what = "is there all the same" if got == latest else "its old contents are still there"
            return f"law 3: {_name(handle)} was refused and {what}"
        return f"law 4: {_name(handle)} {how} and is there"

    def _wrong(self, handle: Handle, got: bytes | None, expected: bytes) -> str:
        """Tell what came instead of a page."""
        name, older = _name(handle), self._older.get(handle, ())
        if got is None:
            return f"law 5: {name} was taken and is gone"
        if got == _SCRIBBLE:
            return f"law 2: {name} changed with the caller's memory after the store: copy the page"
        if got in older:
            return f"law 3: {name} gives older contents than the last that were taken"
        other = next((one for one, data in self._all() if one != handle and data == got), None)
        if other is not None:
            return f"law 12: {name} gives the contents of {_name(other)}"
        if is_mixture(got, [expected, *older]):
            return f"law 8: {name} is torn: it gives a mixture of two stores"
        return f"law 12: {name} gives other bytes than were stored, from byte {first_difference(got, expected)} on"

    def _all(self) -> list[tuple[Handle, bytes]]:
        return [*self._stored.items(), *((one, data) for one, many in self._older.items() for data in many)]

    def _forget(self, handle: Handle, how: str) -> None:
        self._remember(handle, self._stored.pop(handle, None))
        self._unsure.discard(handle)
        self._gone[handle] = how

    def _remember(self, handle: Handle, data: bytes | None) -> None:
        if data is not None:
            self._older.setdefault(handle, deque(maxlen=_REMEMBERED)).append(data)


def _name(handle: Handle) -> str:
    return f"page {handle[1]} of area {handle[0]}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
