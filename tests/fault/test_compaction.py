# SPDX-License-Identifier: Apache-2.0
"""Pages keep their contents while the kernel moves their frames about under its own locks (law 12).

A move of pages that meets a frame locked by compaction is tried again inside the kernel, and Linux 6.18 then reports
less than it moved. Whoever believes it loses pages.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import tmem

COMPACT = Path("/proc/sys/vm/compact_memory")
SECONDS = 5


@contextmanager
def compaction() -> Iterator[None]:
    """Have the kernel compact memory all the time."""
    loop = ["timeout", str(4 * SECONDS), "sh", "-c", f"while echo 1 > {COMPACT}; do :; done"]
    with subprocess.Popen(loop) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.mark.root
@pytest.mark.long
def test_pages_are_right_while_memory_is_compacted(entry: str, need_root: None) -> None:  # noqa: ARG001
    if not COMPACT.exists():
        pytest.skip("this kernel cannot be asked to compact memory")
    memory = tmem.Memory("32M", faults=entry)
    words = memory.zeros(12 << 20, "i8")  # three times the budget
    words[:] = np.arange(words.size)
    with compaction():
        end, rounds = time.monotonic() + SECONDS, 0
        while time.monotonic() < end:
            words += 1
            rounds += 1
            memory.evict(words[: 1 << 20])
    assert (words == np.arange(rounds, rounds + words.size)).all()
    assert memory.check() == []
    assert memory.stats().moves > 1000
