# SPDX-License-Identifier: Apache-2.0
"""Pools: pages by (object, index), put and got by value, in RAM that a host may give or refuse.

Owns: what a caller may ask of a pool. Called by users. Calls host and the native module, which keeps the pages.
Laws: a put may be refused at any time (1); put and get copy (2); a second put replaces or both are gone (3); a
persistent page is kept (5); an ephemeral one comes back exactly or not at all (6).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import NoReturn, Self, cast, overload

import numpy as np
import numpy.typing as npt

from tmem import _core
from tmem.guest import Guest
from tmem.host import Host, default_host
from tmem.indexes import Indexes, ObjectId, Pages, numbers_of
from tmem.outcome import OUTCOMES, Outcome
from tmem.saving import restore, save

__all__ = ["Pool", "PoolStats", "restore_pools", "save_pools"]

_LONGEST_NAME = 63
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """One reading of a pool's counters."""

    pages: int = 0
    frozen: bool = False
    dedup_all: bool = False  # every page is looked up: dedup="on", or "auto" where it pays
    puts: int = 0
    succ_puts: int = 0
    failed_puts: int = 0
    dup_puts: int = 0  # puts on a handle that held a page, which is gone whatever the answer was
    gets: int = 0
    succ_gets: int = 0
    flushed: int = 0  # pages, by flush_page and flush_object
    evicted: int = 0  # ephemeral pages forgotten to make room
    refused: Mapping[str, int] = field(default_factory=dict)  # why puts were refused, counted

    def as_dict(self) -> dict[str, object]:
        """Return every counter, ready for JSON."""
        return asdict(self)


class Pool:
    r"""Pages of 4096 bytes, each under an object and an index.

    A persistent pool keeps a page that it took until it is flushed or put again. An ephemeral one (`persistent=False`)
    may forget a page at any time; `exclusive` (the default) hands it over with the first get, `exclusive=False` keeps
    it and makes it young again. `host` is whose RAM it is, by default one host for the process, which may use a quarter
    of what the machine or the cgroup allows; a Guest takes it on lease from the daemon. `guest` is who is charged.
    `pack=False` compresses nothing; `raw=False` refuses pages that do not shrink.

    `dedup` is which pages are looked up among those that pools of the guest hold already, and kept once: `auto` a few,
    and all as long as enough of them are there already; `on` all; `off` none. Every byte is compared first, and a page
    put over another changes only its own. Persistent and ephemeral pages share nothing with each other. Threads at
    pools with `off` seldom wait for one another; those of one guest that deduplicate pack and unpack side by side, but
    look up and store one after the other.

    An object is an int (0 to 2**192 - 1), or bytes (at most 24) that are read as such a number, little-endian: trailing
    zero bytes do not count, and b"\x01" is object 1, so ids of one fixed length never collide. An index is an int from
    0 to 2**64 - 1. The pages live as long as the pool, which is destroyed with its last reference or at the end of a
    `with` block.

    Raises PoolError where the host has as many pools or guests as it can have.
    """

    def __init__(  # noqa: PLR0913 - each says another thing about the pool
        self,
        persistent: bool = True,  # noqa: FBT001, FBT002 - the first thing anyone says of a pool
        *,
        exclusive: bool | None = None,
        host: Host | Guest | None = None,
        guest: str = "default",
        pack: bool = True,
        raw: bool = True,
        dedup: str = "auto",
        name: str | None = None,
    ) -> None:
        if isinstance(host, Guest) and guest != "default":
            raise ValueError("the daemon charges its guest whole: guest= is for pools of a Host")
        if persistent and exclusive is not None:
            raise ValueError("exclusive is for ephemeral pools: a persistent page stays until it is flushed")
        if name is not None and (not name.isprintable() or not 0 < len(name.encode()) <= _LONGEST_NAME):
            raise ValueError(f"name must be 1 to {_LONGEST_NAME} printable bytes, not {name!r}")
        self._persistent = bool(persistent)
        self._exclusive = not persistent and exclusive is not False
        self._host: Host | Guest = default_host() if host is None else host
        self._guest = guest
        self._name = name or f"pool-{next(_NUMBERS)}"
        kind = "persistent" if persistent else "exclusive" if self._exclusive else "nonexclusive"
        if isinstance(self._host, Guest) and not persistent:
            leases = self._host._core  # noqa: SLF001 - pools and their host share the native module
            # It has the same verbs.
            self._core = cast("_core.Pool", leases.pool(exclusive=self._exclusive, pack=pack, raw=raw))
        else:
            home = _core_of(self._host)
            self._core = _core.Pool(home, guest=guest, kind_name=kind, pack=pack, raw=raw, dedup=dedup)

    # Pages

    def put(self, object: ObjectId, index: int, page: Pages) -> Outcome:
        """Offer a page; return Stored, or Refused with its reason. Whatever the handle held before is gone.

        `page` is 4096 bytes of any contiguous buffer; it is the caller's own again at once.
        """
        return OUTCOMES[self._core.put(object, index, page)]

    @overload
    def get(self, object: ObjectId, index: int) -> bytes | None: ...

    @overload
    def get(self, object: ObjectId, index: int, into: Pages) -> bool: ...

    def get(self, object: ObjectId, index: int, into: Pages = None) -> bytes | bool | None:
        """Return the page as bytes, or None where there is none; with `into`, copy it there and return whether it was.

        PageLostError where a stored page cannot be given back as it was.
        """
        if into is None:
            return self._core.get(object, index)
        return self._core.get_into(object, index, into)

    def put_many(self, object: ObjectId, indexes: Indexes, pages: Pages) -> npt.NDArray[np.uint8]:
        """Offer a page for each index; return the code of each outcome: 0 stored, else a Reason.

        `pages` is one contiguous buffer of 4096 bytes for each index. Other threads get on while it works.
        """
        numbers = numbers_of(indexes)
        codes = np.empty(len(numbers), np.uint8)
        self._core.put_many(object, len(numbers), numbers, pages, codes)
        return codes

    def get_many(self, object: ObjectId, indexes: Indexes, into: Pages) -> npt.NDArray[np.bool_]:
        """Copy the page of each index into its part of `into`; return which were there.

        `into` is one contiguous buffer of 4096 bytes for each index; the parts of those not there stay as they are.
        """
        numbers = numbers_of(indexes)
        found = np.empty(len(numbers), np.bool_)
        self._core.get_many(object, len(numbers), numbers, into, found)
        return found

    def flush_page(self, object: ObjectId, index: int) -> bool:
        """Forget a page; return whether there was one."""
        return self._core.flush_page(object, index)

    def flush_object(self, object: ObjectId) -> int:
        """Forget every page of an object; return how many."""
        return self._core.flush_object(object)

    def __contains__(self, handle: tuple[ObjectId, int]) -> bool:
        """Tell whether (object, index) is stored now, without reading it."""
        return self._core.contains(*handle)

    # The pool

    def freeze(self) -> None:
        """Refuse puts from now on. A put still forgets what its handle held; gets and flushes go on."""
        self._core.set_frozen(frozen=True)

    def thaw(self) -> None:
        """Take puts again; of a pool that is being saved, when that has ended."""
        self._core.set_frozen(frozen=False)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Save every page of a persistent pool to a file, which Pool.restore reads; return how many there are.

        Meanwhile puts are refused as in a frozen pool, and gets and flushes go on; afterwards the pool is frozen or not
        as it was. A page that is flushed while the file is written is not in it. The file is there, whole and on the
        disk, once this returns; until then, and after any error, the one before stays. Its mode is 0600.

        SaveError where it cannot be written, or the pool is being saved already; PageLostError where a page cannot be
        given back.
        """
        return save_pools(path, [self])

    @classmethod
    def restore(
        cls,
        path: str | os.PathLike[str],
        *,
        host: Host | Guest | None = None,
        guest: str | None = None,
        name: str | None = None,
    ) -> Self:
        """Make a new pool with the pages of a file that `save` wrote, all of them or none.

        It packs and keeps pages as the saved one did, and has its guest and name where none is given; it is not frozen.

        SaveError where the file is damaged, cut short, or of a version that this tmem does not read; BudgetError, with
        the capacity that is needed, where the host or the guest has no room; ValueError where the file has several
        pools.
        """
        home = default_host() if host is None else host
        made: list[Self] = []

        def make(saved_name: str, saved_guest: str, *, pack: bool, raw: bool) -> _core.Pool:
            charged = "default" if isinstance(home, Guest) else guest or saved_guest
            pool = cls(host=home, guest=charged, pack=pack, raw=raw, name=name or saved_name)
            made.append(pool)
            return pool._core

        restore(path, _core_of(home), make, one=True)
        return made[0]

    def destroy(self) -> int:
        """Forget every page and end the pool; return how many there were. Twice does no harm."""
        return self._core.destroy()

    def stats(self) -> PoolStats:
        """Return the counters as they are now. ClosedError once the pool is destroyed."""
        return PoolStats(**self._core.stats())

    def check(self) -> list[str]:
        """Walk the whole host and return each broken law in words; an empty list when all is sound. Slow."""
        return self._host.check()

    @property
    def frozen(self) -> bool:
        """Whether puts are refused."""
        return self.stats().frozen

    @property
    def persistent(self) -> bool:
        """Whether a page that was taken is kept."""
        return self._persistent

    @property
    def exclusive(self) -> bool:
        """Whether a get takes the page away."""
        return self._exclusive

    @property
    def destroyed(self) -> bool:
        """Whether destroy() was called."""
        return self._core.destroyed

    @property
    def host(self) -> Host | Guest:
        """The host whose RAM it uses."""
        return self._host

    @property
    def guest(self) -> str:
        """The guest that is charged."""
        return self._guest

    @property
    def name(self) -> str:
        """The name given, or one made up."""
        return self._name

    def __repr__(self) -> str:
        kind = "persistent" if self.persistent else "exclusive" if self.exclusive else "non-exclusive"
        state = "destroyed" if self.destroyed else f"pages={self.stats().pages}"
        return f"<tmem.Pool {self.name!r} {kind} guest={self.guest!r} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Pool cannot be pickled: its pages are memory of this process; save it to a file, or fork")


def save_pools(path: str | os.PathLike[str], pools: Iterable[Pool]) -> int:
    """Save persistent pools of one host to one file, as Pool.save does for one; return how many pages there are.

    All are saved as they were at one moment. Each has a name of its own.
    """
    chosen = list(pools)
    for pool in chosen:
        if not pool.persistent:
            raise ValueError(f"{pool.name!r} is ephemeral, and its pages may vanish at any time: save persistent pools")
    if len({pool.name for pool in chosen}) < len(chosen):
        raise ValueError("two pools of one name cannot be told apart in a file: give each its own by Pool(name=...)")
    return save(path, [(pool._core, pool.name, pool.guest) for pool in chosen])  # noqa: SLF001


def restore_pools(
    path: str | os.PathLike[str], *, host: Host | Guest | None = None, guest: str | None = None
) -> dict[str, Pool]:
    """Make new pools of all that a file has, as Pool.restore does for one; return them by name. All, or none."""
    home = default_host() if host is None else host
    made: dict[str, Pool] = {}

    def make(name: str, saved_guest: str, *, pack: bool, raw: bool) -> _core.Pool:
        charged = "default" if isinstance(home, Guest) else guest or saved_guest
        made[name] = Pool(host=home, guest=charged, pack=pack, raw=raw, name=name)
        return made[name]._core  # noqa: SLF001

    restore(path, _core_of(home), make, one=False)
    return made


def _core_of(host: Host | Guest) -> _core.Host:
    """Return the native host of persistent pools."""
    return host._core.host() if isinstance(host, Guest) else host._core  # noqa: SLF001
