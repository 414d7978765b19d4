# SPDX-License-Identifier: Apache-2.0
"""Pages that a forked child inherited on the swap device stay as they were, however much the parent writes (law 15)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

RAM = 16 << 20


def _noise(seed: int, size: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, size, "u1")


def test_slots_of_a_living_child_are_not_written_again(make: Any) -> None:
    memory = make(RAM, swap="256M")
    size = 40 << 20
    array = memory.zeros(size, "u1")
    array[:] = _noise(1, size)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # until the parent has written everything anew
        os._exit(0 if np.array_equal(array, _noise(1, size)) else 1)
    os.close(read)
    for seed in (2, 3, 4, 5, 6, 7, 8):
        array[:] = _noise(seed, size)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(array, _noise(8, size))
