# SPDX-License-Identifier: Apache-2.0
"""Values set in and got from `tmem.Cache`, beside a dict of zlib-compressed bytes and diskcache, where it is installed.

`python -m benches.cache [--save]`. Values of 100 B, 4 KB and 100 KB, of two kinds: JSON-like text, and noise. The three
do the same work in turns, several rounds; each value that comes back is compared. The dict has no bound, forgets
nothing and locks nothing: it is the least that keeping compressed values in Python can cost. diskcache keeps its values
in files and a database in a directory of /dev/shm, uncompressed. `bytes` is what an entry takes: of ours all that the
cache takes, of the dict the compressed bytes and their keys with the table, of diskcache its files.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import numpy as np

import tmem
from benches import machine

SIZES = {100: 20_000, 4000: 5000, 100_000: 500}
KINDS = ("text", "noise")
ROUNDS = 5

Store = MutableMapping[str, Any]


class Zipped(dict[str, bytes]):
    """A dict whose values are packed by zlib at its fastest level."""

    def __setitem__(self, key: str, value: bytes) -> None:
        super().__setitem__(key, zlib.compress(value, 1))

    def __getitem__(self, key: str) -> bytes:
        return zlib.decompress(super().__getitem__(key))

    def nbytes(self) -> int:
        return sys.getsizeof(self) + sum(sys.getsizeof(k) + len(v) + sys.getsizeof(b"") for k, v in dict.items(self))


def make_values(kind: str, size: int, count: int) -> list[bytes]:
    random = np.random.default_rng(size)
    if kind == "noise":
        return [random.bytes(size) for _ in range(count)]

    def row(n: int) -> bytes:
        whole = {"id": n, "name": f"user-{random.integers(10**6)}", "score": random.random(), "tags": ["a", "b"]}
        return json.dumps(whole).encode()

    rows = [row(n) for n in range(200)]
    per_value = size // len(rows[0]) + 2
    return [b"".join(rows[i] for i in random.integers(0, len(rows), per_value))[:size] for _ in range(count)]


@contextmanager
def on_disk() -> Iterator[Any]:
    from diskcache import Cache  # noqa: PLC0415 - only where it is installed

    directory = tempfile.mkdtemp(dir="/dev/shm")  # no disk is to be measured
    try:
        with Cache(directory, size_limit=1 << 33) as cache:
            yield cache
    finally:
        shutil.rmtree(directory)


def timed(work: Callable[[], None], count: int) -> float:
    """Return microseconds an operation."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / count * 1e6


def setting(store: Store, keys: list[str], values: list[bytes]) -> Callable[[], None]:
    def work() -> None:
        for key, value in zip(keys, values, strict=True):
            store[key] = value

    return work


def getting(store: Store, keys: list[str], values: list[bytes]) -> Callable[[], None]:
    def work() -> None:
        for key, value in zip(keys, values, strict=True):
            if store[key] != value:
                message = "a value came back changed"
                raise RuntimeError(message)

    return work


def measure(kind: str, size: int, count: int) -> dict[str, Any]:
    values = make_values(kind, size, count)
    keys = [f"key-{n}" for n in range(count)]
    rows: dict[str, Any] = {}
    with ExitStack() as stack:
        ours, zipped = stack.enter_context(tmem.Cache("512M")), Zipped()
        stores: dict[str, Any] = {"tmem": ours, "zlib dict": zipped}
        if importlib.util.find_spec("diskcache"):
            stores["diskcache"] = stack.enter_context(on_disk())
        for _ in range(ROUNDS):
            for name, store in stores.items():
                n = count if name != "diskcache" else min(count, 1000)
                rows.setdefault(f"set {name}", []).append(timed(setting(store, keys[:n], values[:n]), n))
                rows.setdefault(f"get {name}", []).append(timed(getting(store, keys[:n], values[:n]), n))
        if ours.stats().evicted or ours.check():
            message = "the cache forgot what it had room for, or is broken"
            raise RuntimeError(message)
        rows["bytes tmem"] = ours.stats().bytes / count
        rows["bytes zlib dict"] = zipped.nbytes() / count
        if "diskcache" in stores:
            rows["bytes diskcache"] = stores["diskcache"].volume() / min(count, 1000)
    return rows


def show(kind: str, size: int, rows: dict[str, Any]) -> None:
    for name in ("tmem", "zlib dict", "diskcache"):
        if f"set {name}" in rows:
            cells = [
                f"{median(rows[f'{v} {name}']):.1f} ({min(rows[f'{v} {name}']):.1f}-{max(rows[f'{v} {name}']):.1f})"
                for v in ("set", "get")
            ]
            print(f"| {size} {kind} | {name} | {cells[0]} | {cells[1]} | {rows[f'bytes {name}']:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    result: dict[str, Any] = {"machine": machine.describe(), "us_an_operation": {}}
    print("| value | | set, µs (spread) | get, µs (spread) | bytes an entry |")
    print("| --- | --- | ---: | ---: | ---: |")
    for kind in KINDS:
        for size, count in SIZES.items():
            rows = measure(kind, size, count)
            show(kind, size, rows)
            result["us_an_operation"][f"{size} {kind}"] = rows
    if given.save:
        machine.save("cache", result)


if __name__ == "__main__":
    main()
