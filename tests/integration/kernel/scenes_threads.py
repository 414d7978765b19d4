# SPDX-License-Identifier: Apache-2.0
"""Threads that Python did not make, that wait in the kernel while paging begins, or that block our signals."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tmem
from tests.integration.kernel.ground import PAGE, RAM, library, tell
from tests.integration.kernel.stage import Stage

ALL = signal.valid_signals()
Routine = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


def _create(function: object, argument: int = 0) -> ctypes.c_ulong:
    """Have the C library make a thread that runs a C function."""
    thread = ctypes.c_ulong()
    code = library.pthread_create(ctypes.byref(thread), None, function, ctypes.c_void_p(argument))
    assert code == 0
    return thread


def _join(thread: ctypes.c_ulong) -> int:
    result = ctypes.c_void_p()
    assert library.pthread_join(thread, ctypes.byref(result)) == 0
    return result.value or 0


def made_by_c_after_paging_began(s: Stage) -> None:
    """Pure C threads: one faults by instructions, one has the kernel write."""
    s.begin()
    text = s.memory.empty(40 * PAGE, "u1")
    text[:-1] = 65
    name = s.memory.empty(2 * PAGE, "u1")
    for _ in range(5):
        s.churn(1)
        s.memory.evict(text)
        assert _join(_create(library.strlen, text.ctypes.data)) == text.size - 1
        name[:] = 0
        s.memory.evict(name)
        assert _join(_create(library.uname, name.ctypes.data + PAGE - 100)) == 0
        assert bytes(name[PAGE - 100 : PAGE - 95]) == b"Linux"
    assert s.right()


def made_by_c_before_paging_began(s: Stage) -> None:
    """A thread of the C library waits in `read` while the guard is put up; what it does later is guarded."""
    source, sink = os.pipe()
    told: list[object] = []

    def work(_: int | None) -> int:
        first = os.read(source, 1)
        s.memory.evict(s.a)
        told.append((first, os.readv(source, [s.a[100:102]])))
        return 5

    routine = Routine(work)
    thread = _create(routine)
    s.begin()
    os.write(sink, b"1")
    os.write(sink, bytes(16))
    assert _join(thread) == 5
    assert told == [(b"1", 16)]
    s.want[100:102] = 0
    assert s.right()


def waiting_in_the_kernel_while_paging_begins(s: Stage) -> None:
    """Each wait goes on as if nothing had happened, and gives what it waited for."""
    left, right = socket.socketpair()
    source, sink = os.pipe()
    box: queue.SimpleQueue[str] = queue.SimpleQueue()
    event, condition = threading.Event(), threading.Condition()
    poll = select.epoll()
    poll.register(right, select.EPOLLIN)
    waits: dict[str, Callable[[], object]] = {
        "recv": lambda: right.recv(4, socket.MSG_PEEK),
        "read": lambda: os.read(source, 4),
        "select": lambda: select.select([right], [], [], 60)[0] == [right],
        "epoll": lambda: len(poll.poll(60)),
        "queue": lambda: box.get(timeout=60),
        "event": lambda: event.wait(60),
        "sleep": lambda: time.sleep(0.4),
        "condition": lambda: condition.acquire() and condition.wait(60),
        "signal": lambda: signal.sigtimedwait([signal.SIGUSR2], 0.2),
    }
    told: dict[str, object] = {}

    def work(name: str) -> None:
        start = time.monotonic()
        told[name] = waits[name]()
        if name == "sleep":
            told[name] = time.monotonic() - start >= 0.4

    threads = [threading.Thread(target=work, args=(name,)) for name in waits]
    for thread in threads:
        thread.start()
    while _asleep() < len(threads):
        time.sleep(0.01)
    s.begin()
    left.send(b"sent")
    os.write(sink, b"four")
    box.put("item")
    event.set()
    with condition:
        condition.notify_all()
    for thread in threads:
        thread.join()
    want = {"recv": b"sent", "read": b"four", "select": True, "epoll": 1, "queue": "item", "event": True}
    assert told == want | {"sleep": True, "condition": True, "signal": None}
    assert s.right()


def _asleep() -> int:
    """Return how many threads of this process wait in the kernel."""
    stats = [(task / "stat").read_text() for task in Path("/proc/self/task").iterdir()]
    states = [text.rpartition(")")[2].split()[0] for text in stats]
    return states.count("S")


def _refused_while(s: Stage, words: str, stop: Callable[[], None]) -> None:
    """Paging cannot begin while something is in the way, is refused by its name, and begins once it is gone."""
    s.memory = tmem.Memory(RAM, faults=s.entry)
    s.a = s.memory.empty(s.want.size, "i8")
    s.a[:] = s.want
    try:
        s.memory.empty(4 * RAM, "u1")
    except tmem.KernelUnsupported as refusal:
        told = str(refusal)
    else:
        told = "not refused"
    tell(told)
    assert told == "not refused" or (words in told and "/dev/userfaultfd" in told)
    assert s.right()
    stop()
    s.ballast = s.memory.empty(4 * RAM, "u1")
    s.churn()
    assert s.right()


def blocks_all_signals_before_paging_begins(s: Stage) -> None:
    ready, go = threading.Event(), threading.Event()

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
        ready.set()
        go.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()

    def stop() -> None:
        go.set()
        thread.join()

    _refused_while(s, "blocks the signal SIGSYS", stop)


def watchdog_of_faulthandler_before_paging_begins(s: Stage) -> None:
    faulthandler.dump_traceback_later(3600)
    _refused_while(s, "blocks the signal SIGSYS", faulthandler.cancel_dump_traceback_later)


def blocks_all_signals_after_paging_began(s: Stage) -> None:
    """A thread may block what it likes then: it is told so, and goes on being paged for and guarded."""
    s.begin()
    told: list[object] = []

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with left, right:
            s.memory.evict(s.a)
            left.send(s.a[:5000])
            s.memory.evict(s.a)
            told.append(right.recv_into(s.a[:5000]))
        s.churn(1)
        told.append(bool((s.a == s.want).all()))

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert told == [40_000, True] * 2
    assert s.right()


def many_come_and_go(s: Stage) -> None:
    """Threads end and are made all the time, and eviction goes on."""
    s.begin()
    wrong: list[int] = []

    def work(number: int) -> None:
        if not bool((s.a[number::64] == s.want[number::64]).all()):
            wrong.append(number)

    for start in range(0, 120, 8):
        threads = [threading.Thread(target=work, args=(number % 64,)) for number in range(start, start + 8)]
        for thread in threads:
            thread.start()
        s.ballast[: 1000 * PAGE : PAGE] += np.uint8(1)
        for thread in threads:
            thread.join()
    assert wrong == []
    assert s.memory.stats().evictions > 0
    assert s.right()
