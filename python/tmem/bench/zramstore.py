# SPDX-License-Identifier: Apache-2.0
"""What zram takes for given pages: they are written straight to a device of our own, without swap in between.

Owns: how zram's bytes are counted. Called by footprint. Calls kernel, which makes the device and removes it.
Counted are `mem_used_total` of its mm_stat, after it was told to compact (which only helps it), and its table: an entry
(`struct zram_table_entry`, drivers/block/zram/zram_drv.h) for each page of the disksize. How large an entry is, is
measured: by what /proc/vmallocinfo grows when the disksize is set, because `zram_meta_alloc` takes the table there in
one piece. The device is as large as the data: it has an entry for each page stored, and none to spare.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tmem.bench import kernel
from tmem.bench.undo import Changes
from tmem.bench.walk import PAGE
from tmem.errors import TmemError

__all__ = ["ENTRY", "ZramBytes", "entry_of", "mm_stat", "zram_bytes"]

ENTRY = 16
"""Bytes of a table entry where the kernel does not show them: a handle and flags, in Linux 6.18 as in most before."""

_CALLERS = ("disksize_store", "zram_meta_alloc")
_PIECE = 4 << 20
_ENTRIES = range(8, 65, 4)  # anything else is no entry: another device was made at the same time


@dataclass(frozen=True, slots=True)
class ZramBytes:
    """What zram takes for `pages`: `used` with its allocator's slack, `data` of it packed, and its `table`; bytes."""

    pages: int
    used: int
    data: int
    same: int
    table: int
    entry_measured: bool

    @property
    def each(self) -> float:
        """Bytes a page, the table counted."""
        return (self.used + self.table) / self.pages

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, with the bytes a page."""
        return asdict(self) | {"each": self.each}


def zram_bytes(changes: Changes, wanted: str, fd: int, nbytes: int) -> ZramBytes:
    """Write the first `nbytes` of a file to a new zram device, read them back, and return what they take there.

    TmemError where other bytes come back.
    """
    before = _tables()
    with kernel.bare_zram(changes, wanted, nbytes) as (block, device), mmap.mmap(fd, nbytes) as source:
        entry = entry_of(_tables() - before, nbytes // PAGE)
        _written(device, source)
        (block / "compact").write_text("1", encoding="ascii")
        said = mm_stat((block / "mm_stat").read_text(encoding="ascii"))
    pages = nbytes // PAGE
    table = pages * (entry or ENTRY)
    return ZramBytes(pages, said["mem_used_total"], said["compr_data_size"], said["same_pages"], table, bool(entry))


def mm_stat(text: str) -> dict[str, int]:
    """Return the first numbers of an mm_stat by their names in Documentation/admin-guide/blockdev/zram.rst."""
    names = ("orig_data_size", "compr_data_size", "mem_used_total", "mem_limit", "mem_used_max", "same_pages")
    return dict(zip(names, map(int, text.split()), strict=False))


def entry_of(grown: int, pages: int) -> int:
    """Return the bytes of a table entry, by what the kernel's tables grew; 0 where that cannot be one."""
    entry = grown // pages // 4 * 4
    return entry if entry in _ENTRIES else 0


def _tables() -> int:
    """Return the bytes of the tables of all zram devices; 0 where the kernel does not show them."""
    try:
        lines = Path("/proc/vmallocinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    mine = [line for line in lines if any(f"{caller}+" in line for caller in _CALLERS)]
    counts = (word.removeprefix("pages=") for line in mine for word in line.split() if word.startswith("pages="))
    return sum(map(int, counts)) * PAGE


def _written(device: Path, source: mmap.mmap) -> None:
    """Write all pages to the device and compare what it gives back. No page cache is between."""
    node = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _PIECE) as back, memoryview(source) as view:
            for start in range(0, len(view), _PIECE):
                piece = view[start : start + _PIECE]
                if os.pwrite(node, piece, start) != len(piece):
                    raise TmemError(f"{device} took only a part of what was written")
                with memoryview(back)[: len(piece)] as found:
                    if os.preadv(node, [found], start) != len(piece) or found != piece:
                        raise TmemError(f"{device} gave back other bytes than were written to it, after {start}")
                piece.release()
    finally:
        os.close(node)
