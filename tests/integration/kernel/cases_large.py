# SPDX-License-Identifier: Apache-2.0
"""One call of four times the budget: its buffer can never be in RAM at once, and the answer is the usual one."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable

import numpy as np

from tests.integration.kernel.ground import RAM, Bytes, Ground, digest, values

SIZE = 4 * RAM
PART = SIZE // 4


def _source(g: Ground) -> str:
    """Return a file of four times the budget."""
    path = g.folder.parent / "large"
    if not path.exists():
        values(SIZE, 3).tofile(path)
    return os.fspath(path)


def _target(g: Ground) -> int:
    return os.open(g.folder / "written", os.O_RDWR | os.O_CREAT | os.O_TRUNC)


def readinto(g: Ground) -> object:
    b = g.room(SIZE)
    with open(_source(g), "rb", buffering=0) as file:  # noqa: PTH123 - the call itself is the subject
        return file.readinto(b), file.readinto(b), digest(b)


def readinto_buffered(g: Ground) -> object:
    b = g.room(SIZE)
    with open(_source(g), "rb") as file:  # noqa: PTH123
        return file.readinto(b), file.read(1), digest(b)


def readv_of_pieces(g: Ground) -> object:
    b = g.room(SIZE)
    fd = os.open(_source(g), os.O_RDONLY)
    read = os.readv(fd, [b[PART:], b[:5], b[5 : PART - 1]])
    at = os.lseek(fd, 0, os.SEEK_CUR)
    os.close(fd)
    return read, at, digest(b)


def preadv_past_the_end(g: Ground) -> object:
    b = g.room(SIZE)
    fd = os.open(_source(g), os.O_RDONLY)
    read = os.preadv(fd, [b], PART + 77)
    os.close(fd)
    return read, digest(b)


def write_and_writev(g: Ground) -> object:
    a = g.array(SIZE)
    fd = _target(g)
    written = os.write(fd, a), os.pwritev(fd, [a[PART + 1 :], a[:100]], 3)
    size = os.fstat(fd).st_size
    found = digest(np.memmap(g.folder / "written", "u1", "r"))
    os.close(fd)
    return written, size, found


def tofile(g: Ground) -> object:
    a = g.array(SIZE)
    a.tofile(g.folder / "tofile")
    return digest(np.memmap(g.folder / "tofile", "u1", "r"))


def _drained(read: Callable[[], bytes], write: Callable[[], object]) -> object:
    """Write in this thread what another one reads to its end."""
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(iter(read, b"")))
    thread.start()
    written = write()
    thread.join()
    return written, digest(np.frombuffer(b"".join(got), "u1"))


def pipe_written(g: Ground) -> object:
    a = g.array(SIZE)
    source, sink = os.pipe()

    def write() -> int:
        count = os.write(sink, a)
        os.close(sink)
        return count

    told = _drained(lambda: os.read(source, 1 << 20), write)
    os.close(source)
    return told


def stream_written(g: Ground) -> object:
    a = g.array(SIZE)
    left, right = socket.socketpair()

    def write() -> object:
        told = left.send(a[:PART]), left.sendmsg([a[PART : 2 * PART], a[2 * PART :]])
        left.close()
        return told

    with right:
        return _drained(lambda: right.recv(1 << 20), write)


def _filled(write: Callable[[bytes], object], read: Callable[[], object]) -> object:
    """Read in this thread what another one writes."""
    data = values(SIZE, 5).tobytes()

    def feed() -> None:
        for start in range(0, SIZE, 1 << 20):
            write(data[start : start + (1 << 20)])

    thread = threading.Thread(target=feed)
    thread.start()
    told = read()
    thread.join()
    return told


def _all_of(b: Bytes, read: Callable[[Bytes], int]) -> int:
    """Read until the array is full; how much a stream gives at a time is its own business."""
    done = 0
    while done < b.size:
        done += read(b[done:])
    return done


def pipe_read(g: Ground) -> object:
    b = g.room(SIZE)
    source, sink = os.pipe()
    told = _filled(lambda part: os.write(sink, part), lambda: _all_of(b, lambda rest: os.readv(source, [rest])))
    os.close(source)
    os.close(sink)
    return told, digest(b)


def stream_read(g: Ground) -> object:
    b = g.room(SIZE)
    left, right = socket.socketpair()
    with left, right:
        return _filled(left.sendall, lambda: _all_of(b, right.recv_into)), digest(b)


def stream_read_whole(g: Ground) -> object:
    b = g.room(SIZE)
    left, right = socket.socketpair()
    with left, right:
        told = _filled(
            left.sendall,
            lambda: (
                right.recv_into(b[:PART], PART, socket.MSG_WAITALL),
                right.recvmsg_into([b[PART : 2 * PART], b[2 * PART :]], 0, socket.MSG_WAITALL)[0],
            ),
        )
    return told, digest(b)


def datagrams_into_far_more_room_than_they_need(g: Ground) -> object:
    """Received, or refused before the call starts: then the datagram is still there for a smaller buffer."""
    b = g.room(SIZE)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    told = []
    with left, right:
        right.settimeout(10)
        left.send(b"first")
        left.send(b"the second")
        for _ in range(2):
            try:
                told.append(right.recv_into(b))
            except OSError as error:
                if not g.guarded or error.errno != errno.ENOBUFS:
                    raise
                told.append(right.recv_into(b[:100]))
    return told, digest(b[: 1 << 20])
