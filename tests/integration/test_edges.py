# SPDX-License-Identifier: Apache-2.0
"""Edges: what programs do around paged memory that must neither hang, nor lose a page, nor show one twice."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPENING = """
import ctypes, os, socket, sys, threading, time, warnings
import numpy as np
import tmem
warnings.simplefilter("ignore")
MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
def advise(array, first, count, advice):
    assert libc.madvise(ctypes.c_void_p(array.ctypes.data + first * 4096), count * 4096, advice) == 0
def new(ram="16M", swap=None):
    return tmem.Memory(ram, swap=swap, faults=sys.argv[1])
def noise(array):
    array[:] = np.random.default_rng(1).integers(0, 256, array.size, "u1")
"""
RECEIVE = """
def waits():
    syscall = open(f"/proc/self/task/{thread.native_id}/syscall").read().split()
    return syscall[0] == "45" and int(syscall[2], 16) == a.ctypes.data
memory = new("64M")
a = memory.empty(MIB, "u1")
ours, theirs = socket.socketpair()
got = []
thread = threading.Thread(target=lambda: got.append(ours.recv_into(a)))
thread.start()
while not waits():
    time.sleep(0.001)
b = memory.zeros(100 * MIB, "u1")
assert memory.stats().armed
theirs.send(b"x" * 5000)
thread.join()
assert got == [5000] and a[:5001].tolist() == [120] * 5000 + [0]
"""
LOCKED = """
memory = new("64M")
a = memory.zeros(MIB // 4, "u1")
a[:] = 7
assert libc.mlock(ctypes.c_void_p(a.ctypes.data), a.nbytes) == 0
del a
assert not memory.zeros(MIB // 4, "u1").any()
"""
FORKS = """
memory = new(swap="64M")
a = memory.zeros(20 * MIB, "u1")
a[::4096] = 1
before = len(os.listdir("/proc/self/fd"))
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
assert len(os.listdir("/proc/self/fd")) <= before + 1
"""
EVICT = """
memory = new("64M")
a = memory.zeros(80 * MIB, "u1")
a[:] = 3
memory.evict(a)
assert memory.stats().resident == 0
"""
DROPPED = """
memory = new()
a = memory.zeros(20 * MIB, "u1")
a[: 4 * MIB] = 3
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
for page in range(1, 1024, 2):
    advise(a, page, 1, 4)  # MADV_DONTNEED
memory.evict(a)
assert (a[: 4 * MIB : 4096].reshape(-1, 2) == [3, 0]).all()
"""
ADVICE = """
memory = new()
a = memory.zeros(20 * MIB, "u1")
for page in range(0, a.size // 4096, 10):
    advise(a, page, 5, 17)  # MADV_DODUMP
a[:] = 3
memory.evict(a)
assert memory.stats().resident == 0
assert (a == 3).all()
"""
FULL_PIPE = """
readable, writable = os.pipe()
os.dup2(writable, 2)
os.set_blocking(2, False)
for size in (4096, 1):
    try:
        while True:
            os.write(2, b"x" * size)
    except BlockingIOError:
        pass
os.set_blocking(2, True)
memory = new()
noise(memory.zeros(24 * MIB, "u1"))
assert memory.stats().overshoot_events > 0
"""
PINS = """
memory = new()
a = memory.zeros(20 * MIB, "u1")
core, page = memory._core, (a.ctypes.data, 4096)
for _ in range(65535):
    core.pin(*page)
try:
    core.pin(*page)
except tmem.errors.BudgetError:
    pass
else:
    raise AssertionError("a pin was forgotten")
for _ in range(65534):
    core.unpin(*page)
assert memory.stats().pinned == 4096
core.unpin(*page)
assert memory.stats().pinned == 0
"""
LOCK_ALL = """
MCL_FUTURE = 2
assert libc.mlockall(MCL_FUTURE) == 0
memory = new("64M")
a = memory.zeros(MIB, "u1")
assert libc.munlockall() == 0
with open("/proc/self/status") as status:
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
assert resident < 1 << 20, resident  # KiB: address space was not filled
"""
CLOSING = "\nassert memory.check() == []\nprint('done')\n"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(RECEIVE, id="a-call-that-waits-while-paging-begins"),
        pytest.param(LOCKED, id="locked-memory-is-not-the-next-array"),
        pytest.param(FORKS, id="dead-children-keep-no-descriptor"),
        pytest.param(EVICT, id="evict-leaves-nothing"),
        pytest.param(ADVICE, id="advice-that-cuts-the-range"),
        pytest.param(FULL_PIPE, id="nobody-empties-standard-error"),
        pytest.param(PINS, id="pins-are-all-counted"),
    ],
)
def test_edge(code: str, entry: str) -> None:
    _run(code, entry)


@pytest.mark.root
@pytest.mark.usefixtures("need_root")
def test_address_space_is_not_filled_where_memory_is_locked(entry: str) -> None:
    _run(LOCK_ALL, entry)


def test_pages_dropped_beside_shared_ones(entry: str) -> None:
    if entry == "signal":
        pytest.skip("the guard refuses this advice")
    _run(DROPPED, entry)


def _run(code: str, entry: str) -> None:
    command = [sys.executable, "-c", OPENING + code + CLOSING, entry]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (process.returncode, out) == (0, "done\n"), err
