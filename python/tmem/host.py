# SPDX-License-Identifier: Apache-2.0
"""The embedded host: RAM that pools may use, and the guests it is divided among.

Owns: what an operator may ask of a host, and the default host of the process. Called by users, pool. Calls limits,
units and the native module. Nothing here is on the path of a page.
Law: the capacity covers everything, pages and tables; ephemeral pages of whoever is most over its share give way (law
11).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, NoReturn

from tmem import _core
from tmem.errors import SizeError
from tmem.kinds import Size
from tmem.limits import allowance
from tmem.units import format_size, parse_size

__all__ = ["MINIMUM_CAPACITY", "GuestStats", "Host", "HostStats", "default_host"]

MINIMUM_CAPACITY: Final = _core.MIN_HOST
"""The smallest capacity, in bytes: below it the tables would be most of it."""

PAGE_METADATA: Final = _core.PAGE_METADATA
"""Bytes that each page is charged for its place in the index, beside the bytes of its data."""

DEFAULT_CAPACITY: Final = "25%"
"""What the default host may use of what the machine or the cgroup allows."""

_MOST_WEIGHT = 2**32 - 1


class _Keep(enum.Enum):
    KEEP = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestStats:
    """One guest of a host. Sizes are bytes."""

    weight: int = 1  # its part of the room for ephemeral pages, against the others' weights; 0: never over its share
    cap: int | None = None  # what it may be charged at most
    pools: int = 0
    pages: int = 0
    ephemeral_pages: int = 0
    charge: int = 0  # its data as it lies in the store, and PAGE_METADATA for each page
    freeable: int = 0  # the part of the charge that ephemeral pages have
    evicted: int = 0  # ephemeral pages it lost to make room


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStats:
    """One reading of a host's counters. Sizes are bytes."""

    capacity: int = 0
    footprint: int = 0  # all that is taken, tables included
    freeable: int = 0  # what ephemeral pages hold
    pages: int = 0
    same_pages: int = 0  # of these, pages of one repeated value, which take no data
    packed_pages: int = 0
    raw_pages: int = 0
    shared_pages: int = 0  # pages that have their data in common with others
    data_bytes: int = 0  # packed and raw pages, before rounding to slots; what is shared counts once
    slot_bytes: int = 0  # the same, rounded
    mapped_bytes: int = 0  # chunks of slots, free slots included
    index_bytes: int = 0
    objects: int = 0  # with pages; once for each part of a large host that has pages of one
    moved: int = 0  # pages moved to empty sparse chunks
    saved_bytes: int = 0  # what shared pages would take in addition, each in a slot of its own
    dedup_all: int = 0  # pools that look every page up among those stored already
    dedup_hashed: int = 0  # pages hashed and looked up
    dedup_found: int = 0  # of these, pages that were stored already
    dedup_failed: int = 0  # comparisons with a page that was another
    dedup_ns: int = 0  # nanoseconds that all of this took
    dedup_bytes: int = 0  # its tables
    puts: int = 0
    succ_puts: int = 0
    failed_puts: int = 0
    dup_puts: int = 0  # puts on a handle that held a page
    gets: int = 0
    succ_gets: int = 0
    flushed: int = 0
    evicted: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)  # why puts were refused, counted

    def as_dict(self) -> dict[str, object]:
        """Return every counter, ready for JSON."""
        return asdict(self)


class Host:
    """RAM for pools, under one capacity that counts pages and tables alike.

    `capacity` is bytes, or text such as `256M`, `25%` and `auto` (half) of what the machine or the cgroup allows. Pools
    of several guests share it: `set` gives a guest a weight and a cap. Several threads may use a host at once; a forked
    child has a copy of its own.

    Raises SizeError for a capacity below 1 MiB or above what may be used.
    """

    def __init__(self, capacity: Size) -> None:
        whole = allowance().count
        self._core = _core.Host(_capacity(capacity), reserve=whole)

    def set(self, guest: str, *, weight: int | None = None, cap: Size | _Keep | None = _Keep.KEEP) -> None:
        """Set a guest's weight and cap; the guest is made where there is none, and what is not named stays.

        Of the room for ephemeral pages a guest's share is its weight against the weights of the others that use it; who
        holds most for its weight gives first. With weight 0 it is never over its share, and its pages go by age alone.
        A guest's first weight is 1. `cap` bounds what the guest is charged: bytes, text, or a share of the capacity;
        None is no cap. Under a lower one its oldest ephemeral pages go at once; persistent pages stay, and puts are
        refused.
        """
        if weight is not None and not 0 <= weight <= _MOST_WEIGHT:
            raise ValueError(f"weight must be from 0 to {_MOST_WEIGHT}, not {weight}")
        capped = not isinstance(cap, _Keep)
        count = None if cap is None or isinstance(cap, _Keep) else parse_size(cap, whole=self.capacity, what="cap")
        self._core.set(guest, weight=weight, cap=count, capped=capped)

    def resize(self, capacity: Size) -> None:
        """Change the capacity. Ephemeral pages go until it fits; persistent ones stay, and puts are refused."""
        self._core.resize(_capacity(capacity))

    def freeze(self, guest: str) -> int:
        """Freeze all pools that a guest has now; return how many. KeyError where there is no such guest."""
        return self._set_frozen(guest, frozen=True)

    def thaw(self, guest: str) -> int:
        """Thaw all pools of a guest; return how many. KeyError where there is no such guest."""
        return self._set_frozen(guest, frozen=False)

    def guests(self) -> dict[str, GuestStats]:
        """Return every guest by name; `default` is always there."""
        return {name: GuestStats(**numbers) for name, numbers in self._core.guests().items()}

    def stats(self) -> HostStats:
        """Return the counters as they are now."""
        return HostStats(**self._core.stats())

    def check(self) -> list[str]:
        """Walk everything and return each broken law in words; an empty list when all is sound. Slow."""
        return self._core.check()

    @property
    def capacity(self) -> int:
        """Bytes that may be taken for everything."""
        return self._core.limit

    @property
    def freeable(self) -> int:
        """Bytes that ephemeral pages hold: what eviction could free."""
        return self._core.freeable

    def __repr__(self) -> str:
        return f"<tmem.Host capacity={format_size(self.capacity)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Host cannot be pickled: it is memory of this process; make one there, or fork")

    def _set_frozen(self, guest: str, *, frozen: bool) -> int:
        pools = self._core.set_frozen(guest, frozen)
        if pools is None:
            raise KeyError(f"no guest {guest!r}: Host.guests() names those there are")
        return pools


_DEFAULT: dict[str, Host] = {}


def default_host() -> Host:
    """Return the host of this process for pools that name none; made at first use, a quarter of the allowance."""
    host = _DEFAULT.get("host")
    # Two threads may make one each at once; only one is kept, and the other cost nothing but address space.
    return _DEFAULT.setdefault("host", Host(DEFAULT_CAPACITY)) if host is None else host


def _capacity(capacity: Size) -> int:
    allowed = allowance()
    count = parse_size(capacity, whole=allowed.count, what="capacity")
    if count < MINIMUM_CAPACITY:
        least = format_size(MINIMUM_CAPACITY)
        raise SizeError(f"a capacity of {format_size(count)} is below the minimum of {least}: ask for that or more")
    if count > allowed.count:
        raise SizeError(
            f"a capacity of {format_size(count)} is more than the {format_size(allowed.count)} that {allowed.source} "
            "has: ask for less, or for a share such as '25%'"
        )
    return count
