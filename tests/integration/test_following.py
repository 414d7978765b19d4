# SPDX-License-Identifier: Apache-2.0
"""The thread entry's handler runs where the faulting thread runs, and faults are served where it may not follow.

Each case is a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

OPENING = """
import ctypes, itertools, os, sys, threading, time
from pathlib import Path
import numpy as np

def deny(call):
    # A seccomp filter: load the call's number, answer the one named with EPERM, let the others through.
    class Filter(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
    steps = ((0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000))
    lines = (Filter * 4)(*(Filter(*step) for step in steps))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(4, lines)), 0, 0) == 0

if len(sys.argv) > 1:
    deny(int(sys.argv[1]))
import tmem
allowed = sorted(os.sched_getaffinity(0))
memory = tmem.Memory("16M", faults="thread")
rows = memory.empty((12 << 10, 512), "i8")
for at in range(0, len(rows), 256):
    rows[at : at + 256] = np.arange(at, at + 256)[:, None]

seeds = itertools.count()

def touch(count):
    # Each time other pages: those of the last time are here.
    for page in np.random.default_rng(next(seeds)).integers(0, len(rows), count):
        assert rows[page, 7] == page

def threads(name):
    return [int(t.name) for t in Path("/proc/self/task").glob("*") if (t / "comm").read_text().strip() == name]

def places(name):
    return [os.sched_getaffinity(tid) for tid in threads(name)]

def touch_until(condition):
    # When the handler looks depends on what else the machine runs: it has as many faults as it needs.
    for _ in range(100):
        touch(500)
        if condition():
            return
    raise AssertionError((places("tmem-pager"), places("tmem-waker"), memory.stats()))
"""
TIED = """
for processor in (allowed[-1], allowed[0]):
    os.sched_setaffinity(0, {processor})
    touch_until(lambda: places("tmem-pager") == places("tmem-waker") == [{processor}])
assert memory.stats().handler_moves >= 1 and memory.stats().handler_unpinned == 0
"""
MOVED = """
handler, = threads("tmem-pager")
os.sched_setaffinity(0, {allowed[0]})
touch_until(lambda: places("tmem-pager") == [{allowed[0]}])
os.sched_setaffinity(handler, {allowed[-1]})
touch_until(lambda: places("tmem-pager") == [{allowed[0]}])
assert os.sched_getaffinity(0) == {allowed[0]}, "only threads of ours are moved"
"""
FREE = """
def is_placed():
    return [len(place) for place in places("tmem-pager")] == [1]
faults, wakes = memory.stats().faults, memory.stats().handler_wakes
touch(4000)
if not is_placed() and memory.stats().handler_wakes - wakes == memory.stats().faults - faults:
    print("busy")
    sys.exit()
touch_until(is_placed)
assert os.sched_getaffinity(0) == set(allowed)
"""
FORK = """
touch(1000)
child = os.fork()
if child == 0:
    os.sched_setaffinity(0, {allowed[-1]})
    before = memory.stats().handler_moves
    touch_until(lambda: places("tmem-pager") == places("tmem-waker") == [{allowed[-1]}])
    os._exit(0 if memory.stats().handler_moves > before and memory.check() == [] else 1)
touch(2000)
assert os.waitpid(child, 0)[1] == 0
touch(1000)
"""
TWO = """
wrong = []
def work(processor, seed):
    os.sched_setaffinity(0, {processor})
    try:
        touch(6000)
        for page in np.random.default_rng(seed).integers(0, len(rows) // 2, 2000) * 2 + seed:
            rows[page, 8] = -page
    except BaseException as error:
        wrong.append(error)
both = [threading.Thread(target=work, args=pair) for pair in ((allowed[0], 0), (allowed[-1], 1))]
[thread.start() for thread in both], [thread.join() for thread in both]
assert wrong == []
for page in range(len(rows)):
    assert rows[page, 8] in (page, -page)
"""
REFUSED = """
touch(3000)
assert memory.stats().{counter} > 0
"""
CALLS = {"sched_setaffinity": (203, "handler_unpinned"), "sched_setscheduler": (144, "handler_wakes")}


@pytest.fixture(autouse=True)
def need_thread_entry(entries: list[str]) -> None:
    if "thread" not in entries:
        pytest.skip("the thread entry cannot be used here")


def _run(code: str, *arguments: str) -> None:
    ending = "assert memory.check() == []\nprint('done')\n"
    command = [sys.executable, "-X", "faulthandler", "-c", OPENING + code + ending, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if (done.returncode, done.stdout) == (0, "busy\n"):
        pytest.skip("other programs keep the processors busy: the handler stays free to run anywhere")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(TIED, id="to-the-processor-of-the-thread"),
        pytest.param(MOVED, id="back-when-moved-away"),
        pytest.param(FREE, id="without-tying-the-program"),
        pytest.param(FORK, id="in-a-forked-child"),
        pytest.param(TWO, id="with-two-threads"),
    ],
)
def test_handler_follows(code: str) -> None:
    _run(code)


@pytest.mark.parametrize("name", CALLS)
def test_faults_are_served_where_the_kernel_refuses(name: str) -> None:
    number, counter = CALLS[name]
    _run(REFUSED.replace("{counter}", counter), str(number))


def test_one_processor_is_enough() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        _run(FREE)
    finally:
        os.sched_setaffinity(0, allowed)
