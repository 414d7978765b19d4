# SPDX-License-Identifier: Apache-2.0
"""What kind of executable a file is, and whether a preload object reaches into it.

Owns: the reading of ELF headers and of `#!` lines. Called by launch. Calls nothing. Pure: it opens one file and reads.
Law: what the dynamic loader would pass over in silence is named here, before the program starts.
"""

from __future__ import annotations

import os

__all__ = ["Image", "inspect", "refusal_of"]

_HEADER, _LINE = 64, 256
_CLASS_64, _LITTLE, _X86_64, _INTERPRETER = 2, 1, 62, 3
_PROGRAM_ENTRY, _SECTION_ENTRY, _LARGEST_TABLE = 56, 64, 16 << 20
_GO_SECTIONS = frozenset({".note.go.buildid", ".go.buildinfo"})
_LOADER = "ld-linux-x86-64.so"


class Image:
    """An executable file: `kind` is `elf`, `script` (it begins with `#!`) or `other`.

    Of an ELF file: whether it is for x86-64, the `loader` it asks for (the empty text where it is static), and whether
    Go's linker made it. Of a script: its interpreter and the one argument that the kernel passes to it.
    """

    __slots__ = ("argument", "go", "interpreter", "kind", "loader", "native")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.native = self.go = False
        self.loader = self.interpreter = self.argument = ""


def inspect(path: str) -> Image:
    """Return what the file is. OSError where it cannot be read, ValueError for a damaged ELF file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        start = os.pread(descriptor, _LINE, 0)
        if start.startswith(b"\x7fELF"):
            return _elf(descriptor, start)
    finally:
        os.close(descriptor)
    return _script(start) if start.startswith(b"#!") else Image("other")


def refusal_of(image: Image) -> str:
    """Return why a preload object does not reach into an ELF file's memory; the empty text when it does."""
    if not image.native:
        return "it is not for x86-64"
    if image.go:
        return "it is a Go program, which maps memory by system calls of its own"
    if not image.loader:
        return "it is linked statically, so that nothing can be preloaded"
    name = os.path.basename(image.loader)
    if name.startswith("ld-musl"):
        return "it is linked with musl, and only the GNU C library is known here"
    return "" if name.startswith(_LOADER) else f"its loader {image.loader} is not the GNU C library's"


def _script(start: bytes) -> Image:
    image = Image("script")
    words = start[2:].partition(b"\n")[0].strip(b" \t").split(None, 1)
    image.interpreter, image.argument = [os.fsdecode(word) for word in [*words, b"", b""][:2]]
    return image


def _elf(descriptor: int, start: bytes) -> Image:
    image = Image("elf")
    image.native = start[4:6] == bytes((_CLASS_64, _LITTLE)) and _number(start, 18, 2) == _X86_64
    if not image.native:
        return image
    if len(start) < _HEADER:
        raise ValueError("its ELF header is cut short")
    offset, size, count = _number(start, 32, 8), _number(start, 54, 2), _number(start, 56, 2)
    for entry in _table(descriptor, offset, size, count, _PROGRAM_ENTRY):
        if _number(entry, 0, 4) == _INTERPRETER:
            named = _bytes(descriptor, _number(entry, 8, 8), _number(entry, 32, 8))
            image.loader = os.fsdecode(named.partition(b"\0")[0])
    image.go = not _GO_SECTIONS.isdisjoint(_section_names(descriptor, start))
    return image


def _section_names(descriptor: int, start: bytes) -> list[str]:
    """Return the sections' names; none where the file was stripped of its section table."""
    offset, size, count, names = (_number(start, at, width) for at, width in ((40, 8), (58, 2), (60, 2), (62, 2)))
    if not offset or names >= count:
        return []
    entries = _table(descriptor, offset, size, count, _SECTION_ENTRY)
    text = _bytes(descriptor, _number(entries[names], 24, 8), _number(entries[names], 32, 8))
    starts = [_number(entry, 0, 4) for entry in entries]
    return [text[at : text.find(b"\0", at)].decode("ascii", "replace") for at in starts]


def _table(descriptor: int, offset: int, size: int, count: int, least: int) -> list[bytes]:
    if count and size < least:
        raise ValueError("its ELF tables are not of the size that they must have")
    whole = _bytes(descriptor, offset, size * count)
    return [whole[at : at + size] for at in range(0, len(whole), size or 1)]


def _bytes(descriptor: int, offset: int, size: int) -> bytes:
    if size > _LARGEST_TABLE or offset >= 1 << 62:
        raise ValueError("its ELF tables are larger than any that are meant")
    found = os.pread(descriptor, size, offset)
    if len(found) < size:
        raise ValueError("it ends before its ELF tables do")
    return found


def _number(data: bytes, offset: int, width: int) -> int:
    return int.from_bytes(data[offset : offset + width], "little")
