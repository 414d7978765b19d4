# SPDX-License-Identifier: Apache-2.0
"""A million pages put to and got from `tmem.Pool` in Python, one by one and in batches, raw and packed, beside memcpy.

`python -m benches.pool_vs_memcpy [--pages N] [--save]`. The copies are of the same pages in the same pieces, into
memory that was touched before, as the pool's was. What a put or a get takes beyond that copy is the cost of managing a
page. Each put replaces the page that its handle holds. `whole` is one copy of all pages, which NumPy makes past the
caches.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

import tmem
from benches import machine

PAGE = 4096
DISTINCT = 16_384
BATCHES = (1, 64, 1024)
ROUNDS = 5
OBJECT = 1

Array = npt.NDArray[np.uint64]
Work = Callable[[], None]


def make_pages() -> Array:
    """Return sorted numbers, text-like words and noisy floats, such as `put_get_vs_memcpy` has."""
    random = np.random.default_rng(1)
    shape = (DISTINCT, PAGE // 8)
    sorted_numbers = np.arange(DISTINCT * PAGE // 8, dtype=np.uint64).reshape(shape)
    sorted_numbers += random.integers(0, 3, shape, dtype=np.uint64)
    text = np.uint64(0x65676170_20656874) ^ (random.integers(0, 2**63, shape, dtype=np.uint64) & np.uint64(0x0F00))
    floats = (1 + random.integers(0, 1000, shape) / 1000).view(np.uint64)
    which = np.arange(DISTINCT)[:, None] % 8
    return np.where(which < 4, sorted_numbers, np.where(which < 7, text, floats))


def copying(source: Array, target: Array, batch: int) -> Work:
    """Return a loop of copies: memmove page by page, or NumPy's copy of a batch."""
    if batch == 1:
        to, start = target.ctypes.data, source.ctypes.data

        def singles() -> None:
            for at in range(0, source.nbytes, PAGE):
                ctypes.memmove(to + at, start + at, PAGE)

        return singles

    def batches() -> None:
        for at in range(0, len(source), batch):
            np.copyto(target[at : at + batch], source[at : at + batch])

    return batches


def putting(pool: tmem.Pool, source: Array, batch: int) -> Work:
    if batch == 1:
        pages = list(source)

        def singles() -> None:
            for index, page in enumerate(pages):
                pool.put(OBJECT, index, page)

        return singles

    def batches() -> None:
        for at in range(0, len(source), batch):
            pool.put_many(OBJECT, range(at, at + batch), source[at : at + batch])

    return batches


def getting(pool: tmem.Pool, target: Array, batch: int) -> Work:
    if batch == 1:
        pages = list(target)

        def singles() -> None:
            for index, page in enumerate(pages):
                pool.get(OBJECT, index, into=page)

        return singles

    def batches() -> None:
        for at in range(0, len(target), batch):
            pool.get_many(OBJECT, range(at, at + batch), target[at : at + batch])

    return batches


def timed(work: Work, passes: int) -> float:
    """Return nanoseconds a page."""
    start = time.perf_counter()
    for _ in range(passes):
        work()
    return (time.perf_counter() - start) / (passes * DISTINCT) * 1e9


def verified(pool: tmem.Pool, source: Array, target: Array) -> None:
    """Stop where a page did not come back as it was, or was not stored."""
    target[:] = 0
    if not pool.get_many(OBJECT, range(DISTINCT), target).all() or not np.array_equal(source, target):
        message = "a page came back changed, or not at all"
        raise RuntimeError(message)


def measure(pages: int) -> dict[str, list[float]]:
    source = make_pages()
    target = np.ones_like(source)
    host = tmem.Host("1G")
    pools = {"raw": tmem.Pool(host=host, pack=False), "packed": tmem.Pool(host=host)}
    for pool in pools.values():
        if pool.put_many(OBJECT, range(DISTINCT), source).any():
            message = "a page was refused by an empty host"
            raise RuntimeError(message)
    passes = max(1, round(pages / DISTINCT / ROUNDS))
    rows: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        rows.setdefault("copy whole", []).append(timed(copying(source, target, DISTINCT), passes))
        for batch in BATCHES:
            rows.setdefault(f"copy {batch}", []).append(timed(copying(source, target, batch), passes))
            for name, pool in pools.items():
                rows.setdefault(f"put {name} {batch}", []).append(timed(putting(pool, source, batch), passes))
                target[:] = 0
                rows.setdefault(f"get {name} {batch}", []).append(timed(getting(pool, target, batch), passes))
                if not np.array_equal(source, target):
                    message = "a page came back changed"
                    raise RuntimeError(message)
    for pool in pools.values():
        verified(pool, source, target)
    broken = host.check()
    if broken:
        raise RuntimeError(broken[0])
    return rows


def show(rows: dict[str, list[float]]) -> None:
    print("| ns a page | pages a call | pool (spread) | copy (spread) | managing | managing / copy |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind in ("raw", "packed"):
        for verb in ("put", "get"):
            for batch in BATCHES:
                ours, copy = rows[f"{verb} {kind} {batch}"], rows[f"copy {batch}"]
                mine, other = median(ours), median(copy)
                print(
                    f"| {verb} {kind} | {batch} | {mine:.0f} ({min(ours):.0f}-{max(ours):.0f}) "
                    f"| {other:.0f} ({min(copy):.0f}-{max(copy):.0f}) | {mine - other:.0f} | {mine / other - 1:.2f} |"
                )
    whole = rows["copy whole"]
    print(f"| copy | whole | | {median(whole):.0f} ({min(whole):.0f}-{max(whole):.0f}) | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1_000_000, help="pages put, got and copied in each row")
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    rows = measure(given.pages)
    show(rows)
    if given.save:
        result: dict[str, Any] = {"machine": machine.describe(), "pages": given.pages, "ns_a_page": rows}
        machine.save("pool_vs_memcpy", result)


if __name__ == "__main__":
    main()
