# SPDX-License-Identifier: Apache-2.0
"""What a Memory says of itself: the counters, with the few numbers derived from them.

Owns: the names and units of the counters. Called by memory, cli, demo. Reads other processes through the native module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from tmem import _core

__all__ = ["PAGE", "Stats", "make_stats", "published"]

PAGE = 4096
"""The unit of paging, in bytes."""

_MEMFD = "/memfd:tmem-stats"

Value = int | float | str
"""A number, or a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """One reading of a Memory's counters. Sizes are bytes unless the comment says otherwise."""

    name: str = ""  # given to the Memory, or made up
    pid: int = 0  # the process
    entry: str = ""  # which fault entry serves: signal or thread
    host: str = ""  # how it stands with its daemon: connected, alone, distrusted, turned away, garbled; empty for none
    armed: int = 0  # 1 once the arrays have outgrown the budget and paging has begun
    ram: int = 0  # the budget
    mapped: int = 0  # the arrays alive, whether touched or not
    regions: int = 0  # how many they are
    resident: int = 0  # arrays' pages in RAM
    standby: int = 0  # evicted, but not yet packed: a fault takes them back
    free_frames: int = 0  # frames that hold no page and wait for the next fault
    store_bytes: int = 0  # RAM taken by the page store
    store_pages: int = 0  # pages it holds
    store_packed: int = 0  # of these, pages that are compressed
    store_cold: int = 0  # of the compressed ones, pages packed tighter because they stay cold
    store_same: int = 0  # of these, pages of one repeated value, which take no room
    store_data: int = 0  # the compressed pages' own size; what pages share counts once
    store_slots: int = 0  # the same, rounded up to the sizes of slots
    store_mapped: int = 0  # memory that the slots are in; what is more than theirs is fragmentation
    store_shared: int = 0  # of the pages, those that share their data with others
    store_saved: int = 0  # what these would take in addition, each by itself
    dedup_all: int = 0  # 1 while every page is looked up among those stored already
    dedup_hashed: int = 0  # pages that were
    dedup_found: int = 0  # of these, pages that were stored already
    dedup_failed: int = 0  # comparisons with a page that was another
    dedup_ns: int = 0  # time that all of this took, in nanoseconds
    leased: int = 0  # memory on lease from a daemon, beside the budget
    leased_used: int = 0  # of it, slots that hold pages
    metadata: int = 0  # tables: what is known of each page
    lent: int = 0  # to caches, which give it back as soon as pages need it
    swap_used: int = 0  # of the swap device, held by pages: what they take there
    swap_pages: int = 0  # pages on it
    swap_file: int = 0  # how large its file is
    swap_cap: int = 0  # what the swap device may hold
    pinned: int = 0  # pages that stay, because pin() said so
    overshoot: int = 0  # over the budget now
    overshoot_events: int = 0  # how often a page had to stay past the budget
    faults: int = 0  # touches of pages that were not there
    fault_ns: int = 0  # time that threads waited for pages, in nanoseconds
    readahead_pages: int = 0  # pages brought in beside the faulted one
    standby_hits: int = 0  # faults that standby served, without unpacking
    evictions: int = 0  # pages that left: packed, sent to the swap device, or found unchanged
    clean_evictions: int = 0  # evictions that found their packed copy still good
    moves: int = 0  # pages moved out of the arrays
    move_busy: int = 0  # pages the kernel would not move: pinned, or shared with a forked child
    move_retries: int = 0  # moves that the kernel asked to be tried again
    unshared: int = 0  # pages copied free of a forked child
    spurious_faults: int = 0  # faults that another thread had served already
    recoded: int = 0  # pages packed tighter because they stayed cold
    copies_dropped: int = 0  # packed copies of resident pages, given up for room
    swap_loads: int = 0  # pages read from the swap device
    swap_stores: int = 0  # pages written to it
    written_back: int = 0  # of these, the oldest of the page store, in whatever form they had there
    swap_written: int = 0  # bytes written to it, with what cleaning moved
    swap_cleaned: int = 0  # pieces of its file that were emptied of what still lived in them, to be written again
    loads: int = 0  # pages that frontswap gave back
    succ_stores: int = 0  # pages that frontswap took
    failed_stores: int = 0  # pages that it refused; why is in `refused`
    invalidates: int = 0  # pages that it was told to forget
    guard_calls: int = 0  # system calls of the process that the guard looked at
    idle: int = 0  # of arrays that ended, kept for the next of their size while memory is plain
    copied: int = 0  # bytes that the process had copied into new frames, where none circulated
    handler_moves: int = 0  # how often the thread entry's handler followed a thread to another processor
    handler_unpinned: int = 0  # how often the kernel did not let it
    handler_wakes: int = 0  # faults whose thread the handler woke itself, because the waker would have been late
    guard_holds: int = 0  # of these, calls that had pages held for them
    forks: int = 0  # children of this Memory made by fork
    outside: int = 0  # anonymous memory of the process in RAM that is not tmem's
    refused: Mapping[str, int] = field(default_factory=dict)  # why the store refused pages, counted
    other: Mapping[str, Value] = field(default_factory=dict)  # counters that this version has no name for

    @property
    def used(self) -> int:
        """All that counts against the budget, in bytes."""
        frames = self.resident + self.standby + self.free_frames + self.idle
        return frames + self.store_bytes + self.metadata + self.lent

    @property
    def ratio(self) -> float:
        """How many bytes of pages the store holds in one byte of memory, leased or its own; 0 when it is empty."""
        taken = self.store_bytes + self.leased_used
        return self.store_pages * PAGE / taken if taken else 0.0

    @property
    def share(self) -> float:
        """How much of the process's anonymous memory is managed, from 0 to 1: arrays against everything else."""
        whole = self.mapped + self.outside
        return self.mapped / whole if whole else 0.0

    def as_dict(self) -> dict[str, object]:
        """Return every counter and derived number, ready for JSON."""
        flat: dict[str, object] = asdict(self)
        return flat | {"used": self.used, "ratio": self.ratio, "share": self.share}


_NAMED = {item.name for item in fields(Stats)} - {"outside", "refused", "other"}
_REFUSED = "refused_"


def make_stats(raw: Mapping[str, Value], pid: int | str = "self") -> Stats:
    """Return the Stats of a flat reading, with what the kernel says of the rest of process `pid`."""
    named = {key: value for key, value in raw.items() if key in _NAMED}
    refused = {key.removeprefix(_REFUSED): int(value) for key, value in raw.items() if key.startswith(_REFUSED)}
    other = {key: value for key, value in raw.items() if key not in _NAMED and not key.startswith(_REFUSED)}
    alone = Stats(**named, refused=refused, other=other)  # type: ignore[arg-type]
    # Below the budget the arrays' pages are not counted: all of them may be in RAM.
    ours = alone.used if alone.armed else alone.used + alone.mapped
    outside = max(0, _anonymous(pid) - ours)
    return Stats(**named, refused=refused, other=other, outside=outside)  # type: ignore[arg-type]


def published(pid: int | None = None) -> Iterator[Stats]:
    """Yield the Stats of every Memory of process `pid`, or of every process that this user may look into."""
    directories = [Path(f"/proc/{pid}")] if pid is not None else sorted(Path("/proc").glob("[0-9]*"), key=_number)
    for directory in directories:
        for path in _descriptors(directory):
            try:
                yield make_stats(_core.stats_read(str(path)), directory.name)
            except (OSError, ValueError):
                continue  # the process went, or its counters are not of this version


def _number(path: Path) -> int:
    return int(path.name)


def _descriptors(directory: Path) -> list[Path]:
    """Return the descriptors of a process that publish counters; each Memory once, however often it is open."""
    found: dict[int, Path] = {}
    try:
        paths = list((directory / "fd").iterdir())
    except OSError:
        return []  # not ours to look into, or gone meanwhile
    for path in paths:
        with suppress(OSError):  # the one that listed them, and others that were closed meanwhile
            if str(path.readlink()).startswith(_MEMFD):
                found.setdefault(path.stat().st_ino, path)
    return list(found.values())


def _anonymous(pid: int | str) -> int:
    """Return the anonymous memory of a process that is in RAM, in bytes; 0 where that cannot be read."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    return int(line.split()[1]) * 1024
