# SPDX-License-Identifier: Apache-2.0
"""The census: where it finds arrays, and that nobody notices that it looked."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from tmem.census import count_numpy

SIZE = 5 << 20


class Marked(np.ndarray[Any, Any]):
    """An array that can be referred to weakly, and that the collector does not hide."""


def _growth(before: int) -> int:
    return count_numpy(SIZE).escaped - before


def test_arrays_in_variables_containers_and_closures_are_found() -> None:
    before = count_numpy(SIZE).escaped
    variable = np.ones(SIZE, "u1")
    assert _growth(before) == SIZE
    deep = (1, (2, {"key": [np.ones(SIZE, "u1")]}))
    assert _growth(before) == 2 * SIZE
    bare = ((np.ones(SIZE, "u1"),),)
    assert _growth(before) == 3 * SIZE
    assert len(deep) + len(bare) + variable.ndim == 4

    def inner() -> int:
        return variable.ndim + _growth(before)

    assert inner() == 1 + 3 * SIZE


def test_a_variable_of_another_thread_is_found() -> None:
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("without a GIL the variables of running threads cannot be looked into")
    before = count_numpy(SIZE).escaped
    there, end = threading.Event(), threading.Event()

    def hold() -> None:
        array = np.ones(SIZE, "u1")
        there.set()
        end.wait(30)
        assert array.size == SIZE

    thread = threading.Thread(target=hold)
    thread.start()
    assert there.wait(30)
    assert _growth(before) == SIZE
    end.set()
    thread.join()


def test_looking_keeps_no_array_alive() -> None:
    array = np.ones(SIZE, "u1").view(Marked)
    watched = weakref.ref(array)
    count_numpy(SIZE)
    del array
    assert watched() is None


def test_looking_leaves_locals_that_somebody_took() -> None:
    number = 5
    taken = locals()
    count_numpy(SIZE)
    assert taken["number"] == number


def test_looking_breaks_no_tuple_that_another_thread_makes() -> None:
    if sys.version_info < (3, 14) and not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("before 3.14, without a GIL, gc.get_objects itself breaks them")
    junk: list[dict[int, int]] = [{} for _ in range(100_000)]
    end = time.monotonic() + 1
    broken: list[str] = []

    def make() -> None:
        while time.monotonic() < end and not broken:
            try:
                tuple(number for number in range(3000))
            except SystemError as error:
                broken.append(repr(error))

    thread = threading.Thread(target=make)
    thread.start()
    while time.monotonic() < end and not broken:
        count_numpy(SIZE)
    thread.join()
    assert broken == []
    assert len(junk) == len(gc.get_referents(junk))


def test_looking_leaves_the_free_lists_of_asyncio_alone() -> None:
    code = """
import asyncio, gc, tmem
async def several():
    return await asyncio.get_running_loop().run_in_executor(None, int)
for _ in range(3):
    asyncio.run(several())
    tmem.stats()
    gc.collect()
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_threads_look_one_after_the_other() -> None:
    before = count_numpy(SIZE).escaped
    held = [np.ones(SIZE, "u1")]  # in what is tracked: without a GIL, other threads see no variables
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(_growth(before))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [held[0].nbytes] * 6


def test_dead_proxies_and_objects_that_pretend_are_passed_by() -> None:
    class Pretender:
        @property
        def __class__(self) -> type:
            raise RuntimeError("asked")

        @__class__.setter
        def __class__(self, value: type) -> None: ...

    class Gone:
        pass

    gone = Gone()
    kept = [weakref.proxy(gone), Pretender(), np.zeros(1 << 20, "u1")]
    del gone
    assert count_numpy().escaped >= 1 << 20
    assert len(kept) == 3
