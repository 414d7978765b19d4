# SPDX-License-Identifier: Apache-2.0
"""A reader of files of saved pools, from docs/explanation/saved-pools.md alone; and the pages of the committed file.

`python -m tests.savedfile PATH` makes a file of those pages with the tmem that is installed, for a new version.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import tmem

PAGE = 4096
MAGIC = b"\x89tmem\r\n\x1a"
HEADER, SECTION, TAIL = 48, 32, 72
POOL, PAGES, GONE, END = 1, 2, 3, 4
SAME, PACKED, RAW = 0, 1, 2
CODECS = range(1, 7)


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its kind, where its header begins, and its payload."""

    kind: int
    at: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One page as it lies in the file."""

    object: int
    index: int
    form: int
    data: bytes


def sections(file: bytes) -> Iterator[Section]:
    assert file[:8] == MAGIC
    at = HEADER
    while at < len(file):
        kind, zeros, length = struct.unpack_from("<IIQ", file, at)
        assert zeros == 0
        yield Section(kind, at, file[at + SECTION : at + SECTION + length])
        at += SECTION + length
    assert at == len(file)


def records(section: Section) -> Iterator[Record]:
    at = 4
    while at < len(section.payload):
        low, middle, high, index, form, zero, length = struct.unpack_from("<QQQQBBH", section.payload, at)
        assert zero == 0
        at += 36
        yield Record(low | middle << 64 | high << 128, index, form, section.payload[at : at + length])
        at += length


def all_records(file: bytes) -> list[Record]:
    return [record for section in sections(file) if section.kind == PAGES for record in records(section)]


def live(file: bytes) -> set[tuple[int, int]]:
    """Return the handles of a file of one pool, without those that are gone."""
    handles = {(record.object, record.index) for record in all_records(file)}
    for section in sections(file):
        if section.kind == GONE:
            for _, whole, low, middle, high, index in struct.iter_unpack("<IIQQQQ", section.payload):
                obj = low | middle << 64 | high << 128
                handles -= {handle for handle in handles if handle[0] == obj and (whole or handle[1] == index)}
    return handles


def _noise(count: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(hashlib.shake_128(str(count).encode()).digest(count), np.uint8)


def contents() -> dict[str, dict[tuple[int, int], bytes]]:
    """Return the pages of the committed files, by pool and handle: one for each form and codec, under odd handles."""
    words = np.arange(512, dtype="u8")
    text = (b"the page of a memory that packs words, and words that it packed before, and so on; " * 60)[:PAGE]
    rows = np.zeros((64, 8), "u8")  # records of 64 bytes, of which a few differ from row to row
    rows[:, 0], rows[:, 1:] = np.cumsum(_noise(128).view("u2")), _noise(56).view("u8")
    mixed = np.repeat(_noise(128).view("u8") << np.uint64(32), 32) | _noise(512)
    near_zero = _noise(1024).view("u2").astype("i8") % 1000 - 500
    pages = {
        (0, 0): bytes(PAGE),
        (0, 1): b"\xa5" * PAGE,
        (1, 0): text,
        (1, 63): mixed.tobytes(),
        (1, 64): (words % 7).astype("u8").tobytes(),
        (2**64, 2**32): (words * 3 + 11).tobytes(),
        (2**191, 2**63): near_zero.tobytes(),
        (2**192 - 1, 2**64 - 2): rows.tobytes(),
        (2**192 - 1, 2**64 - 1): _noise(PAGE).tobytes(),
    }
    return {"first": pages, "second": {}, "third": {(5, 7): b"\x11" * PAGE}}


def make(path: Path) -> None:
    host = tmem.Host("4M")
    pools = []
    for name, pages in contents().items():
        pools.append(tmem.Pool(host=host, name=name, guest=f"guest-{name}", raw=name != "second", pack=name != "third"))
        for (obj, index), page in pages.items():
            assert pools[-1].put(obj, index, page)
    tmem.save_pools(path, pools)
    codes = {record.data[0] for record in all_records(path.read_bytes()) if record.form == PACKED}
    assert codes == set(CODECS), f"a page is missing for codec {set(CODECS) - codes}"


if __name__ == "__main__":
    make(Path(sys.argv[1]))
