# SPDX-License-Identifier: Apache-2.0
"""Descriptors that give an event once. If the page were fetched after a failed call, the event would be gone."""

from __future__ import annotations

import os
import select
import signal
import struct
import threading
import time

import numpy as np

from tests.integration.kernel.ground import PAGE, Ground, call, digest, libc

SYS_TIMERFD_CREATE, SYS_TIMERFD_SETTIME, SYS_SIGNALFD4 = 283, 286, 289
IN_CREATE, IN_NONBLOCK = 0x100, 0o4000


def eventfd(g: Ground) -> object:
    b, count = g.room(2 * PAGE), g.room(PAGE)
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    count[:8] = np.frombuffer(struct.pack("Q", 7), "u1")
    g.gone(b, count)
    written = os.writev(fd, [count[:8]])
    read = os.readv(fd, [b[PAGE - 4 : PAGE + 4]])
    try:
        os.read(fd, 8)
        left = "an event"
    except BlockingIOError:
        left = "nothing"
    os.close(fd)
    return written, read, left, digest(b)


def eventfd_read_by_the_c_library(g: Ground) -> object:
    b = g.room(PAGE)
    fd = os.eventfd(5)
    g.gone(b)
    read = libc("read", fd, b.ctypes, 8)
    os.close(fd)
    return read, digest(b)


def timerfd(g: Ground) -> object:
    setting, b = g.room(2 * PAGE), g.room(2 * PAGE)
    setting[PAGE - 16 : PAGE + 16] = np.frombuffer(struct.pack("4q", 0, 0, 0, 1000), "u1")
    fd = call(SYS_TIMERFD_CREATE, time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    g.gone(setting, b)
    call(SYS_TIMERFD_SETTIME, fd, 0, setting.ctypes.data + PAGE - 16, 0)
    ready = select.select([fd], [], [], 10)[0] == [fd]
    g.gone(b)
    read = os.readv(fd, [b[PAGE - 4 : PAGE + 4]])
    os.close(fd)
    return ready, read, digest(b)


def inotify(g: Ground) -> object:
    b, path = g.room(2 * PAGE), g.room(PAGE)
    watched = g.folder / "watched"
    watched.mkdir()
    name = os.fsencode(watched) + b"\0"
    path[: len(name)] = np.frombuffer(name, "u1")
    fd = int(libc("inotify_init1", IN_NONBLOCK))
    g.gone(b, path)
    assert libc("inotify_add_watch", fd, path.ctypes.data, IN_CREATE) > 0
    told = []
    for number in range(3):
        (watched / f"made-{number}").touch()
        g.gone(b)
        told.append((os.readv(fd, [b[PAGE - 20 :]]), b[PAGE - 4 : PAGE + 12].tobytes()))
    os.close(fd)
    return told


def signalfd(g: Ground) -> object:
    b, mask = g.room(2 * PAGE), g.room(PAGE)
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    mask[:8] = np.frombuffer(struct.pack("Q", 1 << (signal.SIGUSR2 - 1)), "u1")
    g.gone(b, mask)
    fd = call(SYS_SIGNALFD4, -1, mask.ctypes.data, 8, 0)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
    read = os.readv(fd, [b[PAGE - 64 : PAGE + 64]])
    signal.pthread_sigmask(signal.SIG_SETMASK, old)
    os.close(fd)
    return read, int(b[PAGE - 64])


def pipe_descriptors_written_to_paged_memory(g: Ground) -> object:
    b = g.room(PAGE)
    g.gone(b)
    answer = libc("pipe", b.ctypes)
    fds = b.view("i4")[:2].tolist()
    os.write(fds[1], b"through")
    said = os.read(fds[0], 10)
    for fd in fds:
        os.close(fd)
    return answer, said


def epoll_wait(g: Ground) -> object:
    told, events = g.room(2 * PAGE), g.room(PAGE)
    fd, poll = os.eventfd(1), int(libc("epoll_create1", 0))
    events[:12] = np.frombuffer(struct.pack("=IQ", select.EPOLLIN, 99), "u1")
    g.gone(told, events)
    added = libc("epoll_ctl", poll, 1, fd, events.ctypes)
    count = libc("epoll_wait", poll, told.ctypes.data + PAGE - 6, 8, 10_000)
    os.close(fd)
    os.close(poll)
    return added, count, digest(told)


def poll(g: Ground) -> object:
    b = g.room(2 * PAGE)
    ready, idle = os.eventfd(1), os.eventfd(0)
    b[PAGE - 8 : PAGE + 8] = np.frombuffer(struct.pack("ihhihh", idle, select.POLLIN, 0, ready, select.POLLIN, 0), "u1")
    g.gone(b)
    count = libc("poll", b.ctypes.data + PAGE - 8, 2, 10_000)
    os.close(ready)
    os.close(idle)
    return count, int(b[PAGE - 2 :].view("u1")[0]), b[PAGE + 6 : PAGE + 8].tobytes()


def select_sets_and_time(g: Ground) -> object:
    sets, wait = g.room(2 * PAGE), g.room(PAGE)
    fd = os.eventfd(1)
    sets[PAGE - 128 + fd // 8] = 1 << fd % 8
    wait[:16] = np.frombuffer(struct.pack("2q", 10, 0), "u1")
    g.gone(sets, wait)
    count = libc("select", fd + 1, sets.ctypes.data + PAGE - 128, 0, 0, wait.ctypes)
    ready = bool(sets[PAGE - 128 + fd // 8] >> fd % 8 & 1)
    seconds = int(wait.view("i8")[0])
    os.close(fd)
    return count, ready, seconds in (9, 10)


def times_written_to_paged_memory(g: Ground) -> object:
    """Sleep, clocks and timers read and write small structures."""
    ask, b = g.room(PAGE), g.room(PAGE)
    ask.view("i8")[:2] = 0, 1_000_000
    g.gone(ask, b)
    slept = libc("nanosleep", ask.ctypes, b.ctypes)
    g.gone(b)
    before = time.monotonic()
    asked = libc("clock_gettime", time.CLOCK_MONOTONIC, b.ctypes), call(228, time.CLOCK_MONOTONIC, b.ctypes.data + 512)
    read = b.view("i8")[:2], b.view("i8")[64:66]
    close = [abs(int(s) + int(n) / 1e9 - before) < 60 for s, n in read]
    return slept, asked, close


def wait_status_and_usage(g: Ground) -> object:
    """wait4 reaps the child when it writes: a second try would find none."""
    b = g.room(2 * PAGE)
    told = []
    for code in (0, 7, 42):
        child = _child(code)
        g.gone(b)
        reaped = libc("wait4", child, b.ctypes.data + 8, 0, b.ctypes.data + PAGE - 40)
        told.append((reaped == child, int(b[8:12].view("i4")[0]), int(b[PAGE - 8 : PAGE].view("i8")[0]) > 0))
    return told


def waitid_fills_its_structure(g: Ground) -> object:
    b = g.room(2 * PAGE)
    child = _child(9)
    g.gone(b)
    answer = call(247, os.P_PID, child, b.ctypes.data + PAGE - 16, os.WEXITED, b.ctypes.data + PAGE + 1024)
    words = b[PAGE - 16 : PAGE + 16].view("i4")
    return answer, int(words[0]), int(words[2]), int(words[3]) == child, int(words[5]), int(words[6])


def _child(code: int) -> int:
    """Start a process that ends at once with a code, without a copy of this one."""
    return os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], {})


def signal_waited_for(g: Ground) -> object:
    mask, b = g.room(PAGE), g.room(2 * PAGE)
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    mask[:8] = np.frombuffer(struct.pack("Q", 1 << (signal.SIGUSR2 - 1)), "u1")
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
    g.gone(mask, b)
    got = libc("sigtimedwait", mask.ctypes.data, b.ctypes.data + PAGE - 64, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, old)
    return got, int(b[PAGE - 64 : PAGE - 60].view("i4")[0])
