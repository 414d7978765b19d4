# SPDX-License-Identifier: Apache-2.0
"""Calls whose references to pages outlive them: what is read later is what was there,
however much is evicted between.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import numpy as np

from tests.integration.kernel.ground import PAGE, Bytes, Ground, Unavailable, call, digest

SYS_VMSPLICE, SPLICE_F_NONBLOCK = 278, 2
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x400_0000
PIPE = 16 * PAGE


def _aligned(g: Ground, pages: int, seed: int = 1) -> Bytes:
    room = g.room((pages + 1) * PAGE)
    skip = -room.ctypes.data % PAGE
    part = room[skip : skip + pages * PAGE]
    part[:] = g.array(part.size, seed)
    return part


def _vector(*pieces: Bytes) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([word for piece in pieces for word in (piece.ctypes.data, piece.nbytes)], "u8")


def vmsplice_and_read(g: Ground) -> object:
    a = _aligned(g, 8)
    vector = _vector(a[: 3 * PAGE], a[3 * PAGE :])
    source, sink = os.pipe()
    g.gone(a)
    given = call(SYS_VMSPLICE, sink, vector.ctypes.data, 2, 0)
    g.gone(a)
    g.churn()
    said = os.read(source, a.nbytes)
    os.close(source)
    os.close(sink)
    return given, digest(np.frombuffer(said, "u1")), digest(a)


def vmsplice_leaves_the_array_usable(g: Ground) -> object:
    a = _aligned(g, 8)
    vector = _vector(a)
    source, sink = os.pipe()
    g.gone(a)
    given = call(SYS_VMSPLICE, sink, vector.ctypes.data, 1, 0)
    g.churn()
    a[::100] += np.uint8(1)
    g.churn()
    changed = digest(a)
    os.read(source, a.nbytes)
    os.close(source)
    os.close(sink)
    g.churn()
    return given, changed, digest(a)


def vmsplice_of_more_than_the_pipe_takes(g: Ground) -> object:
    a = _aligned(g, 3 * PIPE // PAGE)
    source, sink = os.pipe()
    said = b""
    given: list[object] = []
    while len(said) < a.nbytes:
        vector = _vector(a[len(said) :])
        g.gone(a)
        given.append(call(SYS_VMSPLICE, sink, vector.ctypes.data, 1, 0))
        try:
            told: object = call(SYS_VMSPLICE, sink, vector.ctypes.data, 1, SPLICE_F_NONBLOCK)
        except BlockingIOError:
            told = "full"
        g.churn()
        said += os.read(source, PIPE)
        given.append(told)
    os.close(source)
    os.close(sink)
    return given, digest(np.frombuffer(said, "u1"))


def vmsplice_out_of_a_pipe(g: Ground) -> object:
    b = g.room(5 * PAGE)
    vector = _vector(b[100:5000], b[6000:])
    source, sink = os.pipe()
    os.write(sink, bytes(range(256)) * 60)
    g.gone(b)
    got = call(SYS_VMSPLICE, source, vector.ctypes.data, 2, 0)
    os.close(source)
    os.close(sink)
    return got, digest(b)


def vmsplice_refusals(g: Ground) -> object:
    """What the kernel refuses stays refused, with the kernel's own error."""
    a = _aligned(g, 1)
    vector = _vector(a)
    source, sink = os.pipe()
    told = []
    with (g.folder / "no pipe").open("wb") as file:
        for fd, count, flags in ((file.fileno(), 1, 0), (sink, 2000, 0), (sink, 1, 64), (9999, 1, 0)):
            g.gone(a)
            try:
                told.append(call(SYS_VMSPLICE, fd, vector.ctypes.data, count, flags))
            except OSError as error:
                told.append(-(error.errno or 0))
    os.close(source)
    os.close(sink)
    return told, (g.folder / "no pipe").stat().st_size


def send_without_a_copy(g: Ground) -> object:
    """MSG_ZEROCOPY: sent, or refused with ENOBUFS before the call starts, and then sent with a copy."""
    a = _aligned(g, 256)
    left = socket.socket()
    with socket.create_server(("127.0.0.1", 0)) as server:
        left.connect(server.getsockname())
        right, _ = server.accept()
    with left, right:
        try:
            left.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        except OSError as error:
            raise Unavailable(f"this kernel has no SO_ZEROCOPY: {error}") from None
        left.settimeout(0)
        g.gone(a)
        try:
            sent = left.sendmsg([a], [], MSG_ZEROCOPY)
        except OSError as error:
            if not g.guarded or error.errno != errno.ENOBUFS:
                raise
            sent = left.send(a)
        g.gone(a)
        g.churn()
        left.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: right.recv(1 << 20), b""))
    return len(said) == sent, said == a[:sent].tobytes()


def plain_memory_without_a_copy(g: Ground) -> object:
    """What is not paged goes as ever, zero-copy included."""
    del g
    left, right = socket.socketpair()
    with left, right:
        data: Any = np.arange(9000).astype("u1")
        sent = left.sendmsg([data], [], MSG_ZEROCOPY)
        said = right.recv(9000, socket.MSG_WAITALL)
    return sent, said == data.tobytes()
