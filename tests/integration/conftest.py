# SPDX-License-Identifier: Apache-2.0
"""Memories over the real kernel: one for each fault entry that this machine permits."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import cast

import pytest

import tmem
from tmem import _core

RAM = 16 << 20
Maker = Callable[..., tmem.Memory]


def refusal(entry: str) -> str:
    """Return why an entry cannot be used here; nothing when it can."""
    return cast("dict[str, str]", _core.probe()["entries"])[entry]


@pytest.fixture(params=["signal", "thread"])
def entry(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := refusal(name):
        pytest.skip(f"the {name} entry cannot be used here: {reason}")
    return name


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


@pytest.fixture
def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
