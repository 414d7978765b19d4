# SPDX-License-Identifier: Apache-2.0
"""A program that closes descriptors it did not open (laws 12 and 17): the arrays stay right, or it ends with a report.

The kernel forgets the registered memory with the last reference to a userfaultfd, and pages that are out would then
be zeros.
"""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

OUT = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
memory = tmem.Memory("16M", faults=entry)
array = memory.empty(3 << 20, "i8")
array[:] = np.arange(array.size)
memory.evict(array)
mine = os.open("/dev/null", os.O_RDWR)
ours = own_files("userfaultfd")
assert ours
"""
CLOSE = "for number in ours: libc.close(number)\n"
REPLACE = "for number in ours: libc.dup2(mine, number)\n"
CLOSE_ALL = "os.closerange(3, 1 << 16)\n"
DAEMON = """
if (made := os.fork()) != 0:
    _, status = os.waitpid(made, 0)
    assert bool((array == np.arange(array.size)).all())
    os._exit(134 if os.waitstatus_to_exitcode(status) == -signal.SIGABRT else status)
os.closerange(3, 1 << 16)
"""
LOOK = "say(same=bool((array == np.arange(array.size)).all()))\n"


@pytest.mark.parametrize(
    "close",
    [
        pytest.param(CLOSE, id="close"),
        pytest.param(REPLACE, id="replace", marks=pytest.mark.long),
        pytest.param(CLOSE_ALL, id="close-all"),
        pytest.param(DAEMON, id="daemon"),
    ],
)
def test_closed_userfaultfd_never_reads_as_zeros(child: Any, entry: str, close: str) -> None:
    ran = child(OUT + close + LOOK, entry)
    if ran.returncode == 0:
        assert json.loads(ran.stdout) == {"same": True}
    else:
        assert ran.returncode in (-signal.SIGABRT, 134), ran.stderr
        assert "tmem: fatal: the program closed the pager's userfaultfd" in ran.stderr
        assert ran.stdout == ""


def test_closing_all_descriptors_leaves_guarded_arrays_right(child: Any) -> None:
    """The signal entry is always guarded: there the program can close nothing of tmem's."""
    ran = child(OUT + CLOSE_ALL + LOOK + "say(left=own_files('userfaultfd') == ours)", "signal")
    if "cannot be guarded" in ran.stderr or "not permitted" in ran.stderr:
        pytest.skip(f"the signal entry cannot be used here: {ran.stderr.splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [{"same": True}, {"left": True}]
