# SPDX-License-Identifier: Apache-2.0
"""Law 15, scene by scene: each kind of child, and what it and its parent find in the arrays."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import tmem
from tests.integration.kernel.ground import PAGE, RAM, call, libc
from tests.integration.kernel.stage import Stage, ended, fork

SYS_CLONE = 56


def child_stays_while_the_parent_pages(s: Stage) -> None:
    """Each side changes what it likes, page by page against the other, and sees its own values alone."""
    s.begin()
    go, told = os.pipe(), os.pipe()

    def child() -> bool:
        good = s.right()
        s.a[::512] = -7
        os.write(told[1], b"1" if good else b"0")
        os.read(go[0], 1)
        s.churn()
        want = s.want.copy()
        want[::512] = -7
        return good and bool((s.a == want).all()) and s.memory.check() == []

    pid = fork(child)
    s.a[1::512] = -9
    s.churn()
    assert os.read(told[0], 1) == b"1"
    s.want[1::512] = -9
    s.churn()
    assert s.right()
    os.write(go[1], b"1")
    assert ended(pid) == 0
    s.churn()
    assert s.right()


def grandchildren(s: Stage) -> None:
    s.begin()

    def child() -> bool:
        s.a[: 1 << 16] += 1
        s.want[: 1 << 16] += 1
        s.memory.evict(s.a)

        def grandchild() -> bool:
            good = s.right()
            s.a[-(1 << 16) :] = 0
            s.churn(1)
            return good and not s.a[-(1 << 16) :].any()

        pids = [fork(grandchild), fork(grandchild)]
        s.churn(1)
        return s.right() and [ended(pid) for pid in pids] == [0, 0]

    pids = [fork(child) for _ in range(2)]
    s.churn(1)
    assert [ended(pid) for pid in pids] == [0, 0]
    assert s.right()


def fork_before_paging_begins(s: Stage) -> None:
    """The Memory is there and plain still: the child begins to page by itself, and so does the parent."""
    s.memory = tmem.Memory(RAM, faults=s.entry)
    s.a = s.memory.empty(s.want.size, "i8")
    s.a[:] = s.want

    def child() -> bool:
        s.ballast = s.memory.empty(4 * RAM, "u1")
        s.churn()
        return s.right()

    pid = fork(child)
    s.ballast = s.memory.empty(4 * RAM, "u1")
    s.churn()
    assert s.right()
    assert ended(pid) == 0


def fork_while_threads_page(s: Stage) -> None:
    """Locks are quiet at the fork, whatever the other threads were doing."""
    s.begin()
    stop = threading.Event()

    def work(number: int) -> None:
        part = s.ballast[number * 2 * RAM : (number + 1) * 2 * RAM : PAGE]
        while not stop.is_set():
            part += np.uint8(1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    codes = [ended(fork(lambda: bool((s.a == s.want).all()))) for _ in range(6)]
    stop.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * 6
    assert s.right()


_shared: Stage


def _part(number: int) -> int:
    return int(_shared.a[number::4].sum())


def pools_of_processes(s: Stage) -> None:
    global _shared  # noqa: PLW0603 - a forked worker finds its array here
    s.begin()
    _shared = s
    whole = int(s.want.sum())
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        s.memory.evict(s.a)
        with context.Pool(2) as pool:
            assert sum(pool.map(_part, range(4))) == whole
        s.memory.evict(s.a)
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            assert sum(executor.map(_part, range(4))) == whole
    assert s.right()


def processes_that_answer_through_queues(s: Stage) -> None:
    s.begin()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    before = int(s.want.sum())

    def work(number: int) -> None:
        s.a[number] = 0
        queue.put((number, int(s.a.sum())))

    processes = [context.Process(target=work, args=(number,)) for number in range(3)]
    for process in processes:
        process.start()
    s.churn()
    told = sorted(queue.get() for _ in processes)
    for process in processes:
        process.join()
    assert told == [(number, before - int(s.want[number])) for number in range(3)]
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert s.right()


def other_programs(s: Stage) -> None:
    """vfork, posix_spawn, fork with exec, with paged data on standard input."""
    s.begin()
    for number in range(3):
        s.memory.evict(s.a)
        said = subprocess.run(
            ["/bin/cat"], input=s.a[:70_000].view("u1").data, stdout=subprocess.PIPE, check=True
        ).stdout
        assert said == s.want[:70_000].tobytes()
        ran = subprocess.run(["/bin/sh", "-c", f"exit {number}"], check=False, preexec_fn=os.getpid)
        assert ran.returncode == number
        assert ended(os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {number}"], {})) == number
        assert os.waitstatus_to_exitcode(os.system(f"exit {number}")) == number  # noqa: S605
        pid = os.fork()
        if pid == 0:
            s.a[:] = 0
            os.execv("/bin/sh", ["sh", "-c", f"exit {number}"])  # noqa: S606
        assert ended(pid) == number
    assert s.right()


def touched_behind_the_c_library(s: Stage) -> None:
    """A raw clone inherits no paged memory: the child must end with a report, not go on with zeros."""
    s.begin()
    pid = call(SYS_CLONE, signal.SIGCHLD, 0, 0, 0, 0)
    _touch_as_child(s, pid)


def touched_after_the_other_fork(s: Stage) -> None:
    """`_Fork` calls no at-fork handler."""
    s.begin()
    _touch_as_child(s, libc("_Fork"))


def _touch_as_child(s: Stage, pid: int) -> None:
    if pid == 0:
        os._exit(3 if ctypes.c_long.from_address(s.a.ctypes.data).value == 0 else 4)
    assert ended(pid) == -signal.SIGABRT
    assert s.right()


def untouched_behind_the_c_library(s: Stage) -> None:
    """Such a child may do all else, system calls included; asked for paged memory, the kernel says EFAULT."""
    s.begin()
    source, sink = os.pipe()
    pid = call(SYS_CLONE, signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os.write(sink, b"through")
        try:
            os.writev(sink, [s.a])
        except OSError as error:
            os._exit(error.errno or 0)
        os._exit(0)
    assert ended(pid) == 14
    assert os.read(source, 100) == b"through"
    assert s.right()


def child_ends_without_cleaning_up(s: Stage) -> None:
    """A child's end, clean or by a signal, changes nothing here."""
    s.begin()
    for number in (signal.SIGKILL, signal.SIGTERM, None):
        pid = os.fork()
        if pid == 0:
            s.a[:] = 1
            if number is not None:
                os.kill(os.getpid(), number)
            os._exit(9)
        assert ended(pid) == (9 if number is None else -number)
        s.churn(2)
    assert s.right()
