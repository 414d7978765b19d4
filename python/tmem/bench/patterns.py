# SPDX-License-Identifier: Apache-2.0
"""The orders in which the pages of a memory are visited.

Owns: the patterns' names, what each does with a page, and its order, from the seed. Called by worker and plan.
An order is made before anything is timed: numbers of pages, one list for each thread.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["PATTERNS", "accesses", "mode", "orders"]

PATTERNS = (
    "fill", "seq_first", "seq_again", "backward", "strided", "random_read", "random_write", "zipf_read", "zipf_write",
)  # fmt: skip
"""In the order in which they run: each finds the memory as the one before left it."""

_MOST = 1 << 16  # accesses of the patterns that need not visit every page
_STRIDE = 16  # pages
_SKEW = 0.99
_ALL = ("fill", "seq_first", "seq_again", "backward")

Order = npt.NDArray[np.uint32]


def mode(pattern: str) -> str:
    """Return what the pattern does with a page: `fill`, `read` or `write`."""
    if pattern == "fill":
        return "fill"
    return "write" if pattern.endswith("_write") else "read"


def accesses(pattern: str, pages: int) -> int:
    """Return how many accesses a pattern makes in all."""
    return pages if pattern in _ALL else min(pages, _MOST)


def orders(pattern: str, pages: int, seed: int, threads: int) -> list[Order]:
    """Return the pages that each thread visits, in order.

    In the patterns that go through the memory each thread has its own part of the way; at random each has an order
    of its own over all pages.
    """
    count = accesses(pattern, pages)
    if pattern in _ALL or pattern == "strided":
        whole = _in_order(pattern, pages)[:count]
        return [np.ascontiguousarray(part) for part in np.array_split(whole, threads)]
    each = [len(part) for part in np.array_split(np.empty(count, np.uint8), threads)]
    streams = _streams(pattern, seed, threads)
    if pattern.startswith("zipf"):
        return [_zipf(pages, size, seed, stream) for size, stream in zip(each, streams, strict=True)]
    return [stream.integers(0, pages, size, dtype=np.uint32) for size, stream in zip(each, streams, strict=True)]


def _in_order(pattern: str, pages: int) -> Order:
    every = np.arange(pages, dtype=np.uint32)
    if pattern == "backward":
        return every[::-1]
    if pattern == "strided":
        return np.concatenate([every[start::_STRIDE] for start in range(_STRIDE)])
    return every


def _streams(pattern: str, seed: int, threads: int) -> Iterator[np.random.Generator]:
    for thread in range(threads):
        yield np.random.default_rng([seed, PATTERNS.index(pattern), thread])


def _zipf(pages: int, count: int, seed: int, stream: np.random.Generator) -> Order:
    """Draw pages so that the k-th most wanted is drawn 1/k^0.99 as often as the first.

    Which page is how wanted is scrambled by the seed alone: all threads and both Zipf patterns want the same pages.
    """
    weights = np.cumsum(1.0 / np.arange(1, pages + 1) ** _SKEW)
    ranks = np.searchsorted(weights, stream.random(count) * weights[-1])
    scrambled = np.random.default_rng([seed, len(PATTERNS)]).permutation(pages).astype(np.uint32)
    drawn: Order = scrambled[np.minimum(ranks, pages - 1)]
    return drawn
