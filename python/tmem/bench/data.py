# SPDX-License-Identifier: Apache-2.0
"""What is written into every peer's memory: named data sets of the size asked for, from a seed.

Owns: the recipes. Called by measure. Each is made once, whole, into a file without a name (memfd) that every worker
maps: so filling a memory is copying from the page cache, and every byte of it can be checked.

`flights`: the table of the demonstration, grown as there, its columns one after another. `text`: the sources of
Python's own library; where that is not enough they come again in another order, so that the same text lies at other
offsets of a page. `heap`: the memory of a Python process full of dicts, lists, strings and pandas frames, as large as
asked for. `floats`: normally distributed float64; `cumsum`: their cumulative sums. `ints`: int64 0, 1, 2, ....
`random`: random bytes. `zeros`.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tmem.demo.recipe import read_seed, table_copy
from tmem.errors import TmemError

__all__ = ["COLUMNS", "DATA", "Source", "make", "material_missing", "write_text"]

COLUMNS = 16
"""Where a data set is no table, jobs see it as one of that many columns."""

_CHUNK = 1 << 20  # numbers

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: its file's descriptor, its size, and its columns: (type, where it begins, how many values)."""

    name: str
    fd: int
    nbytes: int
    columns: tuple[tuple[str, int, int], ...]


@contextmanager
def make(name: str, nbytes: int, seed: int) -> Iterator[Source]:
    """Make a data set of `nbytes` (whole pages); it goes with the block. TmemError where it cannot be made."""
    fd = os.memfd_create(f"tmem-bench-{name}")
    try:
        os.ftruncate(fd, nbytes)
        columns = _MAKERS[name](fd, nbytes, seed)
        yield Source(name, fd, nbytes, columns or _even(nbytes, "f8" if name in ("floats", "cumsum") else "i8"))
    finally:
        os.close(fd)


def material_missing(name: str) -> tuple[str, str]:
    """Return why a data set cannot be made here and what to do; two empty texts where it can."""
    if name == "flights":
        try:
            read_seed()
        except TmemError as error:
            return str(error), "pip install 'tmem[demo]'"
    if name == "text" and not _sources():
        return "Python's own library is not here as text", "install Python with its sources"
    return "", ""


def write_text(target: Bytes, seed: int) -> None:
    """Fill `target` with the sources of Python's library, file after file; each time round in another order."""
    paths = _sources()
    random = np.random.default_rng([seed, 1])
    done, first = 0, True
    while done < target.size:
        for number in range(len(paths)) if first else random.permutation(len(paths)):
            text = np.fromfile(paths[number], np.uint8)[: target.size - done]
            target[done : done + text.size] = text
            done += text.size
        first = False


def _even(nbytes: int, dtype: str) -> tuple[tuple[str, int, int], ...]:
    rows = nbytes // 8 // COLUMNS
    return tuple((dtype, column * rows * 8, rows) for column in range(COLUMNS))


def _mapped(fd: int, nbytes: int) -> Bytes:
    """Return the file as an array; the mapping goes with its last view."""
    return np.frombuffer(mmap.mmap(fd, nbytes), np.uint8)


def _flights(fd: int, nbytes: int, _seed: int) -> tuple[tuple[str, int, int], ...]:
    table = read_seed()
    rows = nbytes // sum(values.itemsize for values in table.values())
    columns, start = [], 0
    for values in table.values():
        columns.append((values.dtype.str, start, rows))
        start += rows * values.itemsize
    length = len(next(iter(table.values())))
    with mmap.mmap(fd, nbytes) as view:
        for done in range(0, rows, length):
            for (dtype, begin, _), (_, values) in zip(columns, table_copy(table, done // length), strict=True):
                part = np.ascontiguousarray(values[: rows - done]).astype(dtype, copy=False)
                at = begin + done * part.itemsize
                view[at : at + part.nbytes] = part.tobytes()
    return tuple(columns)


def _text(fd: int, nbytes: int, seed: int) -> None:
    write_text(_mapped(fd, nbytes), seed)


@cache
def _sources() -> list[Path]:
    """Return the library's files; what is installed beside it differs from machine to machine."""
    found = []
    for directory, below, names in os.walk(sysconfig.get_path("stdlib")):
        below[:] = sorted(set(below) - {"site-packages", "__pycache__"})
        found += [Path(directory) / name for name in sorted(names) if name.endswith(".py")]
    return found


def _heap(fd: int, nbytes: int, seed: int) -> None:
    command = [sys.executable, "-m", "tmem.bench.heap", str(fd), str(nbytes), str(seed)]
    env = os.environ | {"PYTHONHASHSEED": str(seed % (1 << 32))}
    done = subprocess.run(command, pass_fds=[fd], env=env, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise TmemError(f"the process whose heap is wanted ended with {done.returncode}:\n{done.stderr[-2000:]}")


def _numbers(kind: str) -> Callable[[int, int, int], None]:
    def write(fd: int, nbytes: int, seed: int) -> None:
        random = np.random.default_rng([seed, 2])
        last = 0.0
        whole: npt.NDArray[Any] = _mapped(fd, nbytes).view(np.int64 if kind == "ints" else np.float64)
        for start in range(0, whole.size, _CHUNK):
            part = whole[start : start + _CHUNK]
            if kind == "ints":
                part[:] = np.arange(start, start + part.size)
                continue
            part[:] = random.standard_normal(part.size)
            if kind == "cumsum":
                part[0] += last
                np.cumsum(part, out=part)
                last = float(part[-1])

    return write


def _random(fd: int, nbytes: int, seed: int) -> None:
    random = np.random.default_rng([seed, 3])
    with mmap.mmap(fd, nbytes) as view:
        for start in range(0, nbytes, _CHUNK):
            count = min(_CHUNK, nbytes - start)
            view[start : start + count] = random.bytes(count)


def _zeros(fd: int, nbytes: int, _seed: int) -> None:
    os.posix_fallocate(fd, 0, nbytes)


_MAKERS: dict[str, Callable[[int, int, int], tuple[tuple[str, int, int], ...] | None]] = {
    "flights": _flights,
    "text": _text,
    "heap": _heap,
    "floats": _numbers("floats"),
    "cumsum": _numbers("cumsum"),
    "ints": _numbers("ints"),
    "random": _random,
    "zeros": _zeros,
}
DATA = tuple(_MAKERS)
"""The names of the data sets."""
