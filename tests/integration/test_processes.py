# SPDX-License-Identifier: Apache-2.0
"""Processes: fork, exit, kill, other people's signal handlers. Each case is a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OPENING = """
import faulthandler, gc, os, signal, sys
import numpy as np
import tmem
memory = tmem.Memory("16M", faults=sys.argv[1])
a = memory.empty(6 << 20, "i8")
a[:] = np.arange(a.size)
memory.evict(a)
whole = int(np.arange(a.size).sum())
"""
FORK = """
child = os.fork()
if child == 0:
    good = int(a.sum()) == whole
    a[::512] = -1
    good = good and int(a[::512].sum()) == -len(a[::512]) and memory.check() == []
    os._exit(0 if good else 1)
a[1::512] = -2
assert int(a[::512].sum()) == int(np.arange(0, a.size, 512).sum())
_, status = os.waitpid(child, 0)
assert status == 0, status
a[1::512] = np.arange(1, a.size, 512)
assert int(a.sum()) == whole
assert memory.check() == []
print("done")
"""
FORK_TWICE = """
def grandchild():
    if os.fork() == 0:
        os._exit(0 if int(a.sum()) == whole else 1)
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
for _ in range(3):
    if os.fork() == 0:
        memory.evict(a)
        grandchild()
for _ in range(3):
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert int(a.sum()) == whole
print("done")
"""
HANDLERS = """
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(int(a[::4096].sum())))
for change in (faulthandler.enable, faulthandler.disable, faulthandler.enable):
    change()
    memory.evict(a)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert int(a.sum()) == whole
assert caught == [int(np.arange(0, a.size, 4096).sum())] * 3
print("done")
"""
EXIT = """
class Late:
    def __del__(self):
        print("done" if int(self.view.sum()) == whole else "wrong", flush=True)
late = Late()
late.view = a[:]
late.whole = whole
sys.modules["keep"] = late
"""
SUBPROCESS = """
import subprocess
for _ in range(5):
    memory.evict(a)
    said = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, check=True).stdout
    assert said.strip() == b"42"
    assert int(a.sum()) == whole
print("done")
"""
POOL = """
import multiprocessing
def part(number):
    return int(a[number::4].sum())
memory.evict(a)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert sum(pool.map(part, range(4))) == whole
print("done")
"""


def _start(code: str, entry: str, where: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPENING + code, entry]
    environment = os.environ | {"TMPDIR": str(where)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(FORK, id="fork"),
        pytest.param(FORK_TWICE, id="fork-twice"),
        pytest.param(HANDLERS, id="handlers"),
        pytest.param(EXIT, id="exit"),
        pytest.param(SUBPROCESS, id="subprocess"),
        pytest.param(POOL, id="pool"),
    ],
)
def test_process_gets_its_values(code: str, entry: str, tmp_path: Path) -> None:
    with _start(code, entry, tmp_path) as process:
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (process.returncode, out) == (0, "done\n"), err


def test_killed_process_leaves_no_file(entry: str, tmp_path: Path) -> None:
    with _start("print('ready', flush=True)\nsys.stdin.read()", entry, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_interrupt_ends_work_on_arrays_with_an_exception(entry: str, tmp_path: Path) -> None:
    code = "print('ready', flush=True)\nwhile True:\n    a += 1\n"
    with _start(code, entry, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    assert process.returncode in (-signal.SIGINT, 1, 130)
