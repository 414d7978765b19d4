# SPDX-License-Identifier: Apache-2.0
"""io_uring and Linux AIO use memory without system calls: served where the kernel serves faults,
else refused with ENOSYS."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from typing import Self

from tests.integration.kernel.ground import PAGE, Ground, Unavailable, call, digest

SYS_IO_SETUP, SYS_IO_DESTROY, SYS_IO_GETEVENTS, SYS_IO_SUBMIT = 206, 207, 208, 209
SYS_URING_SETUP, SYS_URING_ENTER = 425, 426
AIO_READ, AIO_WRITE = 0, 1
URING_READ, URING_WRITE = 22, 23
SINGLE_MMAP = 1
GETEVENTS = 1
PARAMS, SQES_AT = 120, 0x1000_0000
SIZE = 20 * PAGE


def linux_aio(g: Ground) -> object:
    a, b = g.array(SIZE), g.array(SIZE, 2)
    context = ctypes.c_ulong(0)
    try:
        call(SYS_IO_SETUP, 4, ctypes.addressof(context))
    except OSError as error:
        _lacking(g, error, "Linux AIO")
        raise
    fd = os.open(g.folder / "aio", os.O_RDWR | os.O_CREAT)
    told = []
    for order, array in ((AIO_WRITE, a), (AIO_READ, b)):
        g.gone(array)
        block = struct.pack("QIIHHIQQqQII", 7, 0, 0, order, 0, fd, array.ctypes.data + 8, SIZE - 8, 0, 0, 0, 0)
        held = ctypes.create_string_buffer(block)
        pointer = ctypes.c_ulong(ctypes.addressof(held))
        event = (ctypes.c_longlong * 4)()
        submitted = call(SYS_IO_SUBMIT, context.value, 1, ctypes.addressof(pointer))
        done = call(SYS_IO_GETEVENTS, context.value, 1, 1, ctypes.addressof(event), 0)
        told.append((submitted, done, event[0], event[2], digest(array)))
    call(SYS_IO_DESTROY, context.value)
    os.close(fd)
    return told


def io_uring(g: Ground) -> object:
    a, b = g.array(SIZE), g.array(SIZE, 2)
    params = ctypes.create_string_buffer(PARAMS)
    try:
        ring = call(SYS_URING_SETUP, 4, ctypes.addressof(params))
    except OSError as error:
        _lacking(g, error, "io_uring")
        raise
    fd = os.open(g.folder / "uring", os.O_RDWR | os.O_CREAT)
    told = []
    with _Ring(ring, params.raw) as queue:
        for order, array in ((URING_WRITE, a), (URING_READ, b)):
            g.gone(array)
            told.append((queue.transfer(order, fd, array.ctypes.data + 8, SIZE - 8), digest(array)))
    os.close(fd)
    return told


def _lacking(g: Ground, error: OSError, what: str) -> None:
    if not g.guarded and error.errno in (errno.ENOSYS, errno.EPERM):
        raise Unavailable(f"this machine forbids {what}: {error}")


class _Ring:
    """The two queues of an io_uring, used for one transfer at a time."""

    def __init__(self, fd: int, params: bytes) -> None:
        if not struct.unpack_from("I", params, 20)[0] & SINGLE_MMAP:
            os.close(fd)
            raise Unavailable("this kernel's io_uring has its queues in two mappings")
        self._fd = fd
        self._tail, self._mask, self._array = (struct.unpack_from("I", params, 40 + at)[0] for at in (4, 8, 24))
        self._head, self._entries = (struct.unpack_from("I", params, 80 + at)[0] for at in (0, 20))
        entries = struct.unpack_from("I", params, 4)[0]
        size = max(self._array + 4 * struct.unpack_from("I", params, 0)[0], self._entries + 16 * entries)
        self._queues = mmap.mmap(fd, size, offset=0)
        self._orders = mmap.mmap(fd, PAGE, offset=SQES_AT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._queues.close()
        self._orders.close()
        os.close(self._fd)

    def transfer(self, order: int, fd: int, address: int, count: int) -> int:
        """Have one read or write done; the count that the kernel tells."""
        (tail,) = struct.unpack_from("I", self._queues, self._tail)
        (head,) = struct.unpack_from("I", self._queues, self._head)
        self._orders[:64] = struct.pack("BBHiQQIIQ24x", order, 0, 0, fd, 0, address, count, 0, 5)
        struct.pack_into("I", self._queues, self._array + 4 * (tail & 3), 0)
        struct.pack_into("I", self._queues, self._tail, tail + 1)
        call(SYS_URING_ENTER, self._fd, 1, 1, GETEVENTS, 0, 0)
        answer: int = struct.unpack_from("i", self._queues, self._entries + 16 * (head & 7) + 8)[0]
        struct.pack_into("I", self._queues, self._head, head + 1)
        return answer
