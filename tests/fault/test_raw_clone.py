# SPDX-License-Identifier: Apache-2.0
"""A process made behind the C library's back (law 15): it has no paged memory, and its first touch ends it by name."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

FORK = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
memory = tmem.Memory("16M", swap=directory, faults=entry)
array = memory.empty(3 << 20, "i8")
array[:] = np.arange(array.size)
made = fork()
if made == 0:
    print(int(array[::512].sum()), flush=True)
    os._exit(0)
_, status = os.waitpid(made, 0)
say(status=os.waitstatus_to_exitcode(status), same=bool((array == np.arange(array.size)).all()), broken=memory.check())
"""


@pytest.mark.parametrize(
    "fork",
    [
        pytest.param("libc.syscall(57)", id="system-call"),
        pytest.param("libc._Fork()", id="_Fork", marks=pytest.mark.long),
    ],
)
def test_raw_fork_ends_at_its_first_touch_with_a_named_report(child: Any, entry: str, fork: str) -> None:
    ran = child(f"fork = lambda: {fork}\n" + FORK, entry)
    if "undefined symbol: _Fork" in ran.stderr:
        pytest.skip("needs a C library with _Fork")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"status": -signal.SIGABRT, "same": True, "broken": []}
    assert "tmem: fatal: this process was made by a raw clone or _Fork" in ran.stderr
