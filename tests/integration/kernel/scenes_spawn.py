# SPDX-License-Identifier: Apache-2.0
"""Children that borrow this memory, many in a row, while other threads page without end."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np

from tests.integration.kernel import borrower
from tests.integration.kernel.ground import PAGE, Bytes, Ground, libc, present
from tests.integration.kernel.stage import Stage

TURNS = 40


class _Ground(Ground):
    """The memory of a stage."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        super().__init__(folder)
        self.stage = stage

    def room(self, count: int) -> Bytes:
        return self.stage.memory.empty(count, "u1")


class _Hammer:
    """Threads that send out whatever may leave, and have it come back."""

    def __init__(self, s: Stage, count: int = 2) -> None:
        self.stage = s
        self.stop = threading.Event()
        self.wrong: list[int] = []
        self.threads = [threading.Thread(target=self._work, args=(number,)) for number in range(count)]

    def _work(self, number: int) -> None:
        s = self.stage
        part = s.ballast[number * PAGE * 700 :: PAGE]
        while not self.stop.is_set():
            part += np.uint8(1)
            if not bool((s.a == s.want).all()):
                self.wrong.append(number)

    def __enter__(self) -> None:
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        assert self.wrong == []


def _nothing_is_held(s: Stage, *arrays: Bytes) -> None:
    s.ballast[: 512 * PAGE : PAGE] += np.uint8(1)
    for array in arrays:
        s.memory.evict(array)
        assert present(array) == 0
    assert s.right()


def many_while_threads_page(s: Stage) -> None:
    """Each finds its strings; after all of them no page is held."""
    s.begin()
    b = s.memory.empty(4 * borrower.APART, "u1")
    argv = borrower.arguments(b, b"exit 33")
    child = ctypes.c_int()
    with tempfile.TemporaryDirectory(prefix="tmem-kernel-") as folder:
        order = borrower.Order(_Ground(s, Path(folder)), 36)
        borrower.spawn(order)
        noted = order.notes()
        with _Hammer(s):
            for turn in range(TURNS):
                s.memory.evict(b)
                s.memory.evict(order.room)
                at = int(b.ctypes.data) + (0 if turn % 4 else 1)
                answer = libc("posix_spawn", ctypes.addressof(child), at, 0, 0, argv, 0)
                if turn % 4:
                    assert answer == 0
                    assert os.waitstatus_to_exitcode(os.waitpid(child.value, 0)[1]) == 33
                else:
                    assert answer == 2  # ENOENT: "bin/sh" without its slash
                assert borrower.spawn(order) == 36
    assert order.notes() != noted
    _nothing_is_held(s, b, order.room)


def from_many_threads(s: Stage) -> None:
    """Several children at once, each of another thread; Python's own too."""
    s.begin()
    codes: list[int] = []
    with tempfile.TemporaryDirectory(prefix="tmem-kernel-") as folder:
        orders = [borrower.Order(_Ground(s, Path(folder)), 40 + number) for number in range(3)]

        def work(number: int) -> None:
            for _ in range(TURNS // 4):
                s.memory.evict(orders[number].room)
                codes.append(borrower.spawn(orders[number]) - number)
                said = subprocess.run(
                    ["/bin/cat"], input=s.a[:9000].view("u1").data, capture_output=True, check=True
                ).stdout
                codes.append(40 if said == s.want[:9000].tobytes() else 0)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        with _Hammer(s, 1):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert codes == [40] * len(codes)
    assert len(codes) == 3 * 2 * (TURNS // 4)
    _nothing_is_held(s, *(order.room for order in orders))
