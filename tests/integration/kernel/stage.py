# SPDX-License-Identifier: Apache-2.0
"""One child interpreter for one scene: `stage.py SCENE ENTRY USER`.

It ends with `done` and 0 unless the scene ends otherwise.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import numpy as np

import tmem
from tests.integration.kernel.ground import PAGE, RAM, become_nobody, tell, values

__all__ = ["Stage"]

SIZE = RAM // 2


class Stage:
    """A Memory that a scene sets up when it likes, and its arrays."""

    memory: tmem.Memory
    a: Any
    """Values that the scene must find again, absent at first."""
    ballast: Any

    def __init__(self, entry: str) -> None:
        self.entry = entry
        self.want = values(SIZE, 1).view("i8").copy()

    def begin(self) -> None:
        """Make a Memory and have it page."""
        self.memory = tmem.Memory(RAM, faults=self.entry)
        self.a = self.memory.empty(SIZE // 8, "i8")
        self.a[:] = self.want
        self.ballast = self.memory.empty(4 * RAM, "u1")
        self.churn(0)
        self.memory.evict(self.a)

    def churn(self, part: int = 4) -> None:
        """Write to every page of the other array, or to no more than what starts the paging."""
        end = (part or 1) * RAM
        self.ballast[:end:PAGE] += np.uint8(1)

    def right(self) -> bool:
        """Whether the array has its values and every law holds."""
        return bool((self.a == self.want).all()) and self.memory.check() == []


def fork(child: Any) -> int:
    """Run a function in a forked child, whose exit code says whether it was true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if child() else 2
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Wait for a child; its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(scene: str, entry: str, user: str) -> None:
    module, _, name = scene.partition(".")
    play = getattr(importlib.import_module(f"tests.integration.kernel.scenes_{module}"), name)
    if user == "nobody":
        become_nobody()
    play(Stage(entry))
    tell("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
