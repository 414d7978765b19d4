# SPDX-License-Identifier: Apache-2.0
"""Other people's signals: faulthandler in every order, sent and real faults, handlers that use arrays, interrupts."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import mmap
import os
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from types import FrameType

import numpy as np

from tests.integration.kernel.ground import PAGE, libc, present
from tests.integration.kernel.stage import Stage

TURNS = 10
STRIDE = 613 * PAGE
SA_ONSTACK, SS_DISABLE = 0x0800_0000, 2


def faulthandler_in_every_order(s: Stage) -> None:
    """Enabled, disabled, registered and armed with a timeout while paging goes on."""
    s.begin()
    with tempfile.TemporaryFile() as log:
        changes: tuple[Callable[[], object], ...] = (
            lambda: faulthandler.enable(log),
            faulthandler.disable,
            lambda: faulthandler.register(signal.SIGUSR1, log, chain=False),
            lambda: faulthandler.dump_traceback_later(3600, file=log),
            faulthandler.cancel_dump_traceback_later,
            lambda: faulthandler.unregister(signal.SIGUSR1),
        )
        for pair in itertools.permutations(changes, 2):
            for change in pair:
                change()
                s.ballast[: 512 * PAGE : PAGE] += np.uint8(1)
        faulthandler.register(signal.SIGUSR1, log, chain=False)
        s.memory.evict(s.a)
        os.kill(os.getpid(), signal.SIGUSR1)
        faulthandler.dump_traceback_later(0.01, file=log)
        # Both dumps whole: the second is written in pieces, at the offset that a seek of ours would move.
        while os.pread(log.fileno(), 1 << 20, 0).count(b"faulthandler_in_every_order") < 2:
            s.churn(1)
    faulthandler.cancel_dump_traceback_later()
    s.churn()
    assert s.right()


def _fault(number: int) -> None:
    """Have an instruction raise a fault that is no business of the pager's."""
    if number == signal.SIGSEGV:
        ctypes.string_at(16)
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE)
        area = mmap.mmap(file.fileno(), PAGE)
        file.truncate(0)
        sys.exit(area[0])


def _order(s: Stage, when: str) -> None:
    faulthandler.disable()
    if when == "before":
        faulthandler.enable()
    s.begin()
    if when == "after":
        faulthandler.enable()
    if when == "again":
        for change in (faulthandler.enable, faulthandler.disable, faulthandler.enable):
            change()
            s.churn(1)
    s.churn(1)
    assert s.right()


def bus_error_before(s: Stage) -> None:
    _order(s, "before")
    _fault(signal.SIGBUS)


def bus_error_after(s: Stage) -> None:
    _order(s, "after")
    _fault(signal.SIGBUS)


def bus_error_never(s: Stage) -> None:
    _order(s, "never")
    _fault(signal.SIGBUS)


def bus_error_again(s: Stage) -> None:
    _order(s, "again")
    _fault(signal.SIGBUS)


def segmentation_fault_before(s: Stage) -> None:
    _order(s, "before")
    _fault(signal.SIGSEGV)


def segmentation_fault_after(s: Stage) -> None:
    _order(s, "after")
    _fault(signal.SIGSEGV)


def segmentation_fault_never(s: Stage) -> None:
    _order(s, "never")
    _fault(signal.SIGSEGV)


def sent_bus_error(s: Stage) -> None:
    """Sent, not raised: the default action ends the process, as it does without a Memory."""
    _order(s, "never")
    os.kill(os.getpid(), signal.SIGBUS)
    time.sleep(10)


def sent_bus_error_with_faulthandler(s: Stage) -> None:
    _order(s, "after")
    os.kill(os.getpid(), signal.SIGBUS)
    time.sleep(10)


def sent_signals_reach_python(s: Stage) -> None:
    """Handlers installed before and after paging begins get what is sent, SIGBUS and SIGSEGV and SIGSYS too."""
    faulthandler.disable()
    caught: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        caught.append(number)

    numbers = [signal.SIGBUS, signal.SIGSEGV, signal.SIGSYS, signal.SIGUSR1]
    for number in numbers[::2]:
        signal.signal(number, handler)
    s.begin()
    for number in numbers[1::2]:
        signal.signal(number, handler)
    for number in numbers:
        assert signal.getsignal(number) is handler
        s.memory.evict(s.a)
        os.kill(os.getpid(), number)
        s.churn(1)
        signal.raise_signal(number)
    assert caught == [number for number in numbers for _ in range(2)]
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
        os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_DFL)
        s.churn(1)
    assert s.right()


def python_handlers_use_arrays(s: Stage) -> None:
    """A timer of a millisecond; its handler reads and writes absent pages between any two steps of the program."""
    s.begin()
    ticks = 0
    wrong: list[int] = []

    def handler(*_: object) -> None:
        nonlocal ticks
        ticks += 1
        place = ticks * 40_961 % s.a.size
        if s.a[place] != s.want[place]:
            wrong.append(ticks)
        s.a[place] += 1
        s.a[place] -= 1

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    while ticks < 2 * TURNS:
        s.churn(1)
        np.copyto(s.ballast[: s.a.nbytes].view("i8"), s.a)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert wrong == []
    assert s.right()


def machine_code_handlers_use_arrays(s: Stage) -> None:
    """A handler of a few instructions faults wherever it comes in: in held system calls, in the library, in NumPy."""
    s.begin()
    ticks = np.zeros(1, "u8")
    with mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(_adds_one_somewhere(ticks.ctypes.data, s.a.ctypes.data, s.a.nbytes))
        at = ctypes.addressof(ctypes.c_char.from_buffer(code))
        libc("signal", int(signal.SIGALRM), at)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        with tempfile.TemporaryFile(buffering=0) as file:
            while ticks[0] < 10 * TURNS:
                s.churn(1)
                file.seek(0)
                file.write(s.ballast[: 64 * PAGE])
                s.memory.evict(s.a)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        places = np.arange(int(ticks[0])) * STRIDE % s.a.nbytes // 8
        np.add.at(s.want, places, 1)
        assert s.right()


def _adds_one_somewhere(ticks: int, array: int, count: int) -> bytes:
    """Return x86-64 code: counts its calls at `ticks`, and adds one to a word of the array that hangs on the count."""
    return (
        b"\x48\xb8" + struct.pack("<Q", ticks)  # mov rax, ticks
        + b"\x48\xc7\xc1\x01\x00\x00\x00"  # mov rcx, 1
        + b"\xf0\x48\x0f\xc1\x08"  # lock xadd [rax], rcx
        + b"\x48\x69\xc9" + struct.pack("<i", STRIDE)  # imul rcx, rcx, STRIDE
        + b"\x48\x81\xe1" + struct.pack("<i", count - 1)  # and rcx, count - 1
        + b"\x48\xba" + struct.pack("<Q", array)  # mov rdx, array
        + b"\xf0\x48\xff\x04\x0a"  # lock inc qword [rdx + rcx]
        + b"\xc3"  # ret
    )  # fmt: skip


def alarms_among_threads(s: Stage) -> None:
    """The timer's signal lands in whatever thread; the handler runs in the main one; no thread's values suffer."""
    s.begin()
    ticks = itertools.count()
    stop = threading.Event()
    sums: set[int] = set()
    whole = int(s.want.sum())

    def work() -> None:
        while not stop.is_set():
            sums.add(int(s.a.sum()))
            with tempfile.TemporaryFile(buffering=0) as file:
                file.write(s.a[:5000])

    signal.signal(signal.SIGALRM, lambda *_: next(ticks))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        s.churn(1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    stop.set()
    for thread in threads:
        thread.join()
    assert next(ticks) > 0
    assert sums == {whole}
    assert s.right()


def interrupted(s: Stage) -> None:
    """Control-C in the middle of paging is an exception at some line, and nothing else."""
    s.begin()
    main = threading.get_ident()
    for turn in range(TURNS):
        timer = threading.Timer(0.002 * (turn % 7 + 1), signal.pthread_kill, (main, signal.SIGINT))
        try:
            timer.start()
            while True:
                s.churn(1)
                s.a.sum()
        except KeyboardInterrupt:
            timer.join()
        assert bool((s.a[turn::97] == s.want[turn::97]).all())
    assert s.right()


def exceptions_in_the_middle_of_numpy(s: Stage) -> None:
    s.begin()
    told = 0
    for _ in range(3):
        s.memory.evict(s.a)
        floats = s.a.view("f8")
        with np.errstate(all="raise"):
            try:
                np.divide(floats, 0.0, out=s.ballast[: floats.nbytes].view("f8"))
            except FloatingPointError:
                told += 1
        try:
            np.take(s.a, np.array([0, 5, s.a.size + 1]))
        except IndexError:
            told += 1
        try:
            np.fromiter((value if number < 5000 else 1 // 0 for number, value in enumerate(s.a)), "i8")
        except ZeroDivisionError:
            told += 1
        try:
            np.copyto(s.a, np.zeros(3, "i8"))
        except ValueError:
            told += 1
        s.churn(1)
    assert told == 12
    assert s.right()


def alternate_stack_in_an_array(s: Stage) -> None:
    """The kernel writes a signal's frame to pages that would have left long ago."""
    s.begin()
    b = s.memory.empty(64 * PAGE, "u1")
    stack = struct.pack("QiiQ", b.ctypes.data, 0, 0, b.nbytes)
    with mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(b"\x48\xb8" + struct.pack("<Q", s.a.ctypes.data) + b"\x48\x89\x20\xc3")  # mov [s.a], rsp
        at = ctypes.addressof(ctypes.c_char.from_buffer(code))
        action = struct.pack("Q", at) + bytes(128) + struct.pack("iiQ", SA_ONSTACK, 0, 0)
        assert libc("sigaction", int(signal.SIGUSR2), action, None) == 0
        assert libc("sigaltstack", stack, None) == 0
        for _ in range(TURNS):
            s.churn(1)
            s.memory.evict(b)
            s.memory.evict(s.a)
            signal.raise_signal(signal.SIGUSR2)
            assert b.ctypes.data < s.a[0] < b.ctypes.data + b.nbytes
        assert libc("sigaltstack", struct.pack("QiiQ", 0, SS_DISABLE, 0, 0), None) == 0
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    s.a[0] = s.want[0]
    s.churn(1)
    s.memory.evict(b)
    assert present(b) == 0
    assert s.right()
