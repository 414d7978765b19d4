# SPDX-License-Identifier: Apache-2.0
"""A process whose memory is a real Python heap: `python -m tmem.bench.heap FD BYTES SEED` writes an image of it.

Owns: what is in that heap. Called by data, in a process of its own, so that nothing else is in its memory. Objects as
programs make them: records as dicts, words and their counts, lists of tuples, pandas frames with columns of text and of
numbers. The image is each page of private memory that is present, in order of address, read from /proc/self/mem.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from tmem.bench.data import write_text

__all__ = ["main"]

_PAGE = 4096
_PRESENT = np.uint64(1 << 63)
_MATERIAL = 8 << 20
_ROUND = 2000


def main() -> None:
    """Grow the heap until it is large enough, then write its image."""
    fd, nbytes, seed = (int(text) for text in sys.argv[1:4])
    keep = []
    grown = _grow(seed)
    while _resident() < nbytes + (16 << 20):  # what is of files is not in the image
        keep.append(next(grown))
    written = _image(fd, nbytes)
    while written < nbytes:
        keep.append(next(grown))
        if _resident() > 2 * nbytes + (256 << 20):
            sys.exit(f"the heap of {_resident()} bytes gave an image of {written}")
        written = _image(fd, nbytes)


def _grow(seed: int) -> Iterator[object]:
    """Yield more and more objects, 2 or 3 MiB at a time."""
    random = np.random.default_rng([seed, 4])
    text = np.empty(_MATERIAL, np.uint8)
    write_text(text, seed)
    words = re.findall(r"[A-Za-z_]{3,}", text.tobytes().decode("utf-8", errors="replace"))
    number = 0
    while True:
        picked = [words[n] for n in random.integers(0, len(words), 4 * _ROUND)]
        numbers = random.integers(0, 10_000, _ROUND)
        values = random.normal(100.0, 25.0, _ROUND).round(2)
        yield [
            {"id": number + n, "name": f"{picked[n]}-{n}", "tags": picked[n : n + 3], "score": float(values[n])}
            for n in range(_ROUND)
        ]
        yield Counter(f"{a}.{b}" for a, b in pairwise(picked))
        yield [(number + n, int(numbers[n]), picked[n], float(values[n]) / 3) for n in range(_ROUND)]
        yield pd.DataFrame(
            {
                "key": pd.Series(picked[:_ROUND], dtype=object),
                "count": numbers,
                "value": values,
                "group": pd.Categorical(picked[_ROUND : 2 * _ROUND]),
                "total": values.cumsum(),
            }
        )
        yield {word: {"seen": n, "line": f"{word} = {picked[-n]}"} for n, word in enumerate(picked[:_ROUND])}
        number += _ROUND


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _image(fd: int, nbytes: int) -> int:
    """Write the pages that are present, at most `nbytes`; return how many bytes there were."""
    done = 0
    memory, pages = os.open("/proc/self/mem", os.O_RDONLY), os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        for start, end in _areas():
            count = (end - start) // _PAGE
            table = np.frombuffer(os.pread(pages, count * 8, start // _PAGE * 8), np.uint64)
            for page in np.flatnonzero(table & _PRESENT):
                if done >= nbytes:
                    return done
                done += os.pwrite(fd, os.pread(memory, _PAGE, start + int(page) * _PAGE), done)
    finally:
        os.close(memory)
        os.close(pages)
    return done


def _areas() -> list[tuple[int, int]]:
    """Return the private writable memory that is of no file, and the heap."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        if fields[1] == "rw-p" and (len(fields) < 6 or fields[5] == "[heap]"):  # noqa: PLR2004 - as proc(5) has it
            start, _, end = fields[0].partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


if __name__ == "__main__":
    main()
