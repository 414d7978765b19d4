# SPDX-License-Identifier: Apache-2.0
"""Pages that tell where they come from, and what became of one that came back wrong.

Owns: contents that differ in every word from those of any other page made. Called by trial and check.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from tmem.ops import PAGE_SIZE

__all__ = ["Pages", "first_difference", "is_mixture"]

_WORDS = PAGE_SIZE // 8


class Pages:
    """Makes pages, no two alike, from a seed. Each kind is what some backend treats in its own way."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._serial = 0

    def same(self) -> bytes:
        """Return a page of one word repeated."""
        return self._next() * _WORDS

    def text(self) -> bytes:
        """Return a page that compressors shrink well, and that is no word repeated."""
        word = self._next()
        return b"".join(word if n % 16 else n.to_bytes(4, "little") + word[:4] for n in range(1, _WORDS + 1))

    def noise(self) -> bytes:
        """Return a page that nothing shrinks."""
        return self._next() + self._random.randbytes(PAGE_SIZE - 8)

    def sparse(self) -> bytes:
        """Return a page of zeros but for its last word."""
        return bytes(PAGE_SIZE - 8) + self._next()

    def any(self) -> bytes:
        """Return one of the above."""
        return self._random.choice((self.same, self.text, self.noise, self.sparse))()

    def _next(self) -> bytes:
        self._serial += 1
        return self._serial.to_bytes(3, "little") + self._random.randbytes(4) + b"\x01"


def is_mixture(page: bytes, stores: Sequence[bytes]) -> bool:
    """Return whether every byte of `page` is that of one of `stores` at its place, and no store has them all."""
    found = np.frombuffer(page, np.uint8)
    same = [found == np.frombuffer(store, np.uint8) for store in stores]
    return bool(same) and not any(one.all() for one in same) and bool(np.logical_or.reduce(same).all())


def first_difference(page: bytes, expected: bytes) -> int:
    """Return the first byte that differs, the length where none does."""
    return next((at for at, (a, b) in enumerate(zip(page, expected, strict=False)) if a != b), len(page))
