# SPDX-License-Identifier: Apache-2.0
"""A connection to the daemon for pools: memory on lease for them, and pools that several guests share.

Owns: what a caller may ask of a connection and of a shared pool. Called by users and pool. Calls hostpath, limits and
the native module, in which the connection's thread and all pages are.
Laws: a shared page may vanish at any time, and comes back as it was put last or not at all (6); a shared pool is joined
by its secret and a grant, and what is not granted is an error (9); ephemeral memory can be taken back at once (19).
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import NoReturn, Self, overload

import numpy as np
import numpy.typing as npt

from tmem import _core
from tmem.errors import SizeError
from tmem.hostpath import default_path, find, trusted_uid
from tmem.indexes import Indexes, ObjectId, Pages, numbers_of
from tmem.kinds import Size
from tmem.limits import allowance
from tmem.outcome import OUTCOMES, Outcome
from tmem.units import format_size, parse_size

__all__ = ["ConnectionStats", "Guest", "SharedPool", "SharedPoolStats", "new_secret"]

SECRET_BYTES = 16
_LONGEST_NAME = 63
_NUMBERS = itertools.count(1)


def new_secret() -> bytes:
    """Return a random secret for a shared pool: 16 bytes that its members must know, and be granted besides."""
    return secrets.token_bytes(SECRET_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStats:
    """One reading of a connection, and of the ephemeral pools on it. Bytes and pages."""

    state: str = "alone"  # connected; alone where no daemon answers; distrusted, turned away, garbled; ended
    text: str = ""  # what the daemon said before it hung up
    guest: int = 0  # the daemon's number for this guest; 0 where there is none
    extent_bytes: int = 0  # what is leased at once
    most_bytes: int = 0  # the daemon will never lease more
    held: int = 0  # extents on lease, of all pools
    granted: int = 0  # extents that came, ever
    refused_leases: int = 0  # requests for extents that were refused
    connections: int = 0  # how often it was connected
    pages: int = 0  # in ephemeral pools
    same_pages: int = 0  # of these, pages that repeat one word
    data_bytes: int = 0  # what the others take, as they are stored
    extents: int = 0  # of ephemeral pools
    leased_bytes: int = 0  # of these extents
    footprint: int = 0  # this process's own memory for them
    revoked: int = 0  # extents that the daemon took back
    revoked_pages: int = 0  # pages that went with them
    damaged: int = 0  # pages whose bytes had changed: misses
    puts: int = 0  # offered
    succ_puts: int = 0  # stored
    failed_puts: int = 0  # refused
    dup_puts: int = 0  # puts on a handle that held a page
    gets: int = 0  # asked for
    succ_gets: int = 0  # found
    flushed: int = 0  # pages flushed, one by one or with their object
    evicted: int = 0  # forgotten to make room
    refused: Mapping[str, int] = field(default_factory=dict)  # why puts were refused, counted

    def as_dict(self) -> dict[str, object]:
        """Return every counter, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPoolStats:
    """One reading of a shared pool, as this member sees it."""

    pages: int = 0  # that this member put, and did not flush itself
    members: int = 0  # this one included
    joined: bool = False  # the daemon knows this guest as a member
    frozen: bool = False  # this member's puts are refused
    data_bytes: int = 0  # of this member's records
    leased_bytes: int = 0  # on lease for this member's part
    extents: int = 0  # of these bytes
    others_extents: int = 0  # extents of other members that it reads
    footprint: int = 0  # this process's own memory for it
    blind: int = 0  # gets that missed because another member's index was not there to be read
    damaged: int = 0  # pages that did not decode: misses
    puts: int = 0  # offered
    succ_puts: int = 0  # stored
    failed_puts: int = 0  # refused
    dup_puts: int = 0  # puts on a handle that held a page of this member's
    gets: int = 0  # asked for
    succ_gets: int = 0  # found
    flushed: int = 0  # pages flushed, one by one or with their object
    evicted: int = 0  # always 0: who reads finds out what was written over
    refused: Mapping[str, int] = field(default_factory=dict)  # why puts were refused, counted

    def as_dict(self) -> dict[str, object]:
        """Return every counter, ready for JSON."""
        return asdict(self)


class Guest:
    """A connection to the daemon, as which `Pool(host=guest)` takes its memory on lease.

    `host` is the daemon's socket, or `auto`: the environment's TMEM_HOST, else the first of the usual places that has
    one. Where no daemon answers the guest works alone and goes on looking: ephemeral pools refuse pages that need room,
    and persistent ones keep theirs in this process's own RAM. `name` is what an operator sees, else the program's.

    Ephemeral pools hold their pages in memory that the daemon can take back at any moment; then they miss. Persistent
    pools use leased memory first. Their tables, and pages that the daemon has no room for, lie in this process's own
    RAM, up to `capacity`: bytes, text, or a share of what may be used. A forked child has a copy of what persistent
    pools hold, nothing of what ephemeral ones do, and connects for itself.

    Raises TmemError where the socket may not be looked at, SizeError for a capacity that cannot be meant.
    """

    def __init__(
        self, host: str | os.PathLike[str] = "auto", *, name: str | None = None, capacity: Size = "25%"
    ) -> None:
        if name is not None and (not name.isprintable() or not 0 < len(name.encode()) <= _LONGEST_NAME):
            raise ValueError(f"name must be 1 to {_LONGEST_NAME} printable bytes, not {name!r}")
        found = find(host)
        self._path = default_path() if found is None else found
        self._name = name
        most = allowance().count
        limit = parse_size(capacity, whole=most, what="capacity")
        if not _core.MIN_HOST <= limit <= most:
            least, whole = format_size(_core.MIN_HOST), format_size(most)
            raise SizeError(f"a capacity of {format_size(limit)} is not from {least} to {whole}: ask for one that is")
        self._core = _core.Guest((self._path, name, trusted_uid()), limit=limit, most=most)

    def shared_pool(self, secret: bytes, name: str | None = None, *, persistent: bool = False) -> SharedPool:
        """Join the shared pool of that secret and return it. Pages that any member puts are there for all to get.

        `secret` is 16 bytes, from new_secret() or another member. Each guest must also be granted the pool by the
        daemon's administrator, with `tmem shared-auth`. Shared pools are ephemeral.

        PoolError where this guest was not granted it, no daemon answers, or it has no memory for another member.
        """
        if persistent:
            raise ValueError("a shared pool is ephemeral: a page that must be kept belongs in a pool of one guest")
        known = bytes(memoryview(secret))
        if len(known) != SECRET_BYTES:
            raise ValueError(f"a secret is {SECRET_BYTES} bytes, from tmem.new_secret() or another member")
        return SharedPool(self, self._core.join(known), name or f"shared-{next(_NUMBERS)}")

    def stats(self) -> ConnectionStats:
        """Return how the connection stands, and the counters of its ephemeral pools. ClosedError once it is closed."""
        return ConnectionStats(**self._core.stats())

    def check(self) -> list[str]:
        """Walk all private pools and return each broken law in words; an empty list when all is sound. Slow."""
        return self._core.check()

    def close(self) -> None:
        """End the connection: what ephemeral and shared pools hold goes. Twice does no harm.

        Persistent pages move out of leased memory; as long as some find no room here, the connection stays for them.
        """
        self._core.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._core.closed

    @property
    def path(self) -> str:
        """The daemon's socket."""
        return self._path

    @property
    def name(self) -> str | None:
        """The name given."""
        return self._name

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.stats().state
        return f"<tmem.Guest of {self._path!r} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Guest cannot be pickled: it is a connection of this process; make one there, or fork")


class SharedPool:
    """Ephemeral pages that several guests share, made by Guest.shared_pool.

    A get leaves the page there. Whoever puts a handle last is believed; a page that anyone flushed is gone for all. A
    page may vanish at any time, and all pages do when a member leaves. Objects and indexes are as in Pool.
    """

    def __init__(self, guest: Guest, core: _core.LeasedPool, name: str) -> None:
        self._guest, self._core, self._name = guest, core, name

    def put(self, object: ObjectId, index: int, page: Pages) -> Outcome:
        """Offer a page; return Stored, or Refused with its reason. What any member put on the handle is gone."""
        return OUTCOMES[self._core.put(object, index, page)]

    @overload
    def get(self, object: ObjectId, index: int) -> bytes | None: ...

    @overload
    def get(self, object: ObjectId, index: int, into: Pages) -> bool: ...

    def get(self, object: ObjectId, index: int, into: Pages = None) -> bytes | bool | None:
        """Return the page as bytes, or None; with `into`, copy it there and return whether there was one."""
        if into is None:
            return self._core.get(object, index)
        return self._core.get_into(object, index, into)

    def put_many(self, object: ObjectId, indexes: Indexes, pages: Pages) -> npt.NDArray[np.uint8]:
        """Offer a page for each index, as Pool.put_many; return the code of each outcome."""
        numbers = numbers_of(indexes)
        codes = np.empty(len(numbers), np.uint8)
        self._core.put_many(object, len(numbers), numbers, pages, codes)
        return codes

    def get_many(self, object: ObjectId, indexes: Indexes, into: Pages) -> npt.NDArray[np.bool_]:
        """Copy the page of each index into its part of `into`, as Pool.get_many; return which were there."""
        numbers = numbers_of(indexes)
        found = np.empty(len(numbers), np.bool_)
        self._core.get_many(object, len(numbers), numbers, into, found)
        return found

    def flush_page(self, object: ObjectId, index: int) -> bool:
        """Forget a page, whoever put it; return whether there was one. PoolError while the daemon is gone."""
        return self._core.flush_page(object, index)

    def flush_object(self, object: ObjectId) -> int:
        """Forget every page of an object, whoever put it; return how many. Reads every index; PoolError as above."""
        return self._core.flush_object(object)

    def contains(self, object: ObjectId, index: int) -> bool:
        """Tell whether a page is there as far as the members' indexes say, without reading it."""
        return self._core.contains(object, index)

    def __contains__(self, handle: tuple[ObjectId, int]) -> bool:
        """Tell whether (object, index) is there, as contains() does."""
        return self._core.contains(*handle)

    def freeze(self) -> None:
        """Refuse this member's puts from now on. A put still forgets what its handle held; gets and flushes go on."""
        self._core.set_frozen(frozen=True)

    def thaw(self) -> None:
        """Take this member's puts again."""
        self._core.set_frozen(frozen=False)

    def leave(self) -> None:
        """End the membership. What is in the pool now is gone for all. Twice does no harm."""
        self._core.destroy()

    def stats(self) -> SharedPoolStats:
        """Return this member's counters as they are now; reads its index. ClosedError once it has left."""
        numbers = self._core.stats()
        return SharedPoolStats(**{**numbers, "joined": bool(numbers["joined"])})

    @property
    def left(self) -> bool:
        """Whether leave() was called."""
        return self._core.destroyed

    @property
    def guest(self) -> Guest:
        """The connection by which it was joined."""
        return self._guest

    @property
    def name(self) -> str:
        """The name given, or one made up."""
        return self._name

    def __repr__(self) -> str:
        state = "left" if self.left else f"members={self.stats().members}"
        return f"<tmem.SharedPool {self._name!r} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SharedPool cannot be pickled: join it there, by Guest.shared_pool(secret)")
