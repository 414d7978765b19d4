# SPDX-License-Identifier: Apache-2.0
"""Memories over the real kernel: one for each fault entry that this machine permits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

import tmem

RAM = 16 << 20
Maker = Callable[..., tmem.Memory]


@pytest.fixture
def make(entry: str) -> Iterator[Maker]:
    """Make memories that are closed and found sound at the end."""
    made: list[tmem.Memory] = []

    def maker(ram: int | str = RAM, **options: object) -> tmem.Memory:
        memory = tmem.Memory(ram, **({"faults": entry} | options))  # type: ignore[arg-type]
        made.append(memory)
        return memory

    yield maker
    gc.collect()
    for memory in made:
        assert memory.check() == []
        if not memory.closed:
            memory._core.close()  # not close(): a failed test's arrays are no news


@pytest.fixture
def memory(make: Maker) -> tmem.Memory:
    """A Memory of the smallest budget."""
    return make()
