# SPDX-License-Identifier: Apache-2.0
"""What programs whose whole heap is paged hand to the kernel: words to wait for, structures that point to others."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading

import numpy as np

from tests.integration.kernel.ground import PAGE, Bytes, Ground, call, digest

SYS_IOCTL, SYS_EPOLL_WAIT, SYS_WRITEV, SYS_FUTEX, SYS_GETRANDOM, SYS_FUTEX_WAITV = 16, 232, 20, 202, 318, 449
SIOCGIFCONF, FUTEX_WAIT, FUTEX_WAKE, FUTEX_32 = 0x8912, 0, 1, 2
MOST_PIECES = 1024
APART = 300 * PAGE


def _put(b: Bytes, place: int, form: str, *values: int) -> int:
    content = struct.pack(form, *values)
    b[place : place + len(content)] = np.frombuffer(content, "u1")
    return int(b.ctypes.data) + place


def words_that_threads_wait_for(g: Ground) -> object:
    """Each on a page of its own; all other pages leave meanwhile. What is awaited is a change, however it comes."""
    b = g.room(40 * APART)
    at = [_put(b, number * APART + PAGE - 4, "I", 1) for number in range(40)]
    seen: list[int] = []

    def wait(number: int) -> None:
        while b[number * APART + PAGE - 4] == 1:
            try:
                call(SYS_FUTEX, at[number], FUTEX_WAIT, 1, 0, 0, 0)
            except (BlockingIOError, InterruptedError):
                continue
        seen.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    g.churn()
    for number in range(40):
        b[number * APART + PAGE - 4] = 2
        call(SYS_FUTEX, at[number], FUTEX_WAKE, 1, 0, 0, 0)
    for thread in threads:
        thread.join()
    g.gone(b)
    return sorted(seen), digest(b)


def a_vector_of_futexes(g: Ground) -> object:
    b = g.room(4 * APART)
    words = [_put(b, PAGE - 4, "I", 1), _put(b, APART + 100, "I", 2)]
    vector = _put(b, 2 * APART - 20, "QQIIQQII", 1, words[0], FUTEX_32, 0, 3, words[1], FUTEX_32, 0)
    g.gone(b)
    try:
        return call(SYS_FUTEX_WAITV, vector, 2, 0, 0, 0)
    except BlockingIOError:
        g.gone(b)
        return "another value"


def names_of_interfaces(g: Ground) -> object:
    b = g.room(2 * APART)
    room = b.ctypes.data + PAGE - 6
    asked = _put(b, APART - 7, "QQ", 800, room)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        g.gone(b)
        answer = call(SYS_IOCTL, s.fileno(), SIOCGIFCONF, asked)
        g.gone(b)
    return answer, digest(b[: 2 * PAGE])


def hundreds_of_small_buffers(g: Ground) -> object:
    b = g.array(MOST_PIECES * 3 * PAGE)
    vector = g.room(MOST_PIECES * 16)
    pieces = [number for i in range(MOST_PIECES) for number in (int(b.ctypes.data) + i * 3 * PAGE + PAGE - 9, 20)]
    vector[:] = np.array(pieces, "u8").view("u1")
    source, sink = os.pipe()
    g.gone(b, vector)
    written = call(SYS_WRITEV, sink, vector.ctypes.data, MOST_PIECES)
    said = os.read(source, 1 << 16)
    os.close(source)
    os.close(sink)
    g.gone(b, vector)
    return written, digest(np.frombuffer(said, "u1"))


def room_for_more_events_than_may_be_held(g: Ground) -> object:
    b = g.room(24 << 20)
    source, sink = os.pipe()
    with select.epoll() as poll:
        poll.register(sink, select.EPOLLOUT)
        g.gone(b)
        told = call(SYS_EPOLL_WAIT, poll.fileno(), b.ctypes.data, (24 << 20) // 12, 0)
        os.close(source)
        os.close(sink)
    return told, int(b[:4].view("u4")[0])


def more_random_bytes_than_may_be_held(g: Ground) -> object:
    b = g.room(24 << 20)
    g.gone(b)
    done = 0
    while done < b.nbytes:
        done += call(SYS_GETRANDOM, b.ctypes.data + done, b.nbytes - done, 0)
    return done, all(bool(part.any()) for part in np.split(b, 64))
