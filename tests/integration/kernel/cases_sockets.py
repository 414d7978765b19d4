# SPDX-License-Identifier: Apache-2.0
"""Sockets: a stream gives every byte in order; a message arrives once and whole."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable

from tests.integration.kernel.ground import PAGE, Bytes, Ground, call, digest, libc

SIZE = 60_000
SYS_RECVMMSG, SYS_SENDMMSG = 299, 307


def stream_send_and_receive(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    left, right = socket.socketpair()
    with left, right:
        g.gone(a, b)
        sent = left.send(a[:100])
        left.sendall(a[100:])
        received = right.recv_into(b[:50], 50), right.recv_into(b[50:], SIZE - 50, socket.MSG_WAITALL)
    return sent, received, digest(b)


def stream_looked_at_first(g: Ground) -> object:
    a, b, c = g.array(SIZE), g.room(SIZE), g.room(SIZE)
    left, right = socket.socketpair()
    with left, right:
        g.gone(a, b, c)
        left.sendall(a)
        looked = right.recv_into(b, 9000, socket.MSG_PEEK)
        taken = right.recv_into(c, 9000, socket.MSG_WAITALL)
    return looked, taken, digest(b), digest(c)


def stream_messages(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    left, right = socket.socketpair()
    with left, right:
        g.gone(a, b)
        sent = left.sendmsg([a[:10], a[10:30_000], b"between", a[30_000:]])
        got = right.recvmsg_into([b[:20_000], b[30_000:50_000], b[20_000:30_000]], 0, socket.MSG_WAITALL)[0]
    return sent, got, digest(b)


def descriptors_ride_along(g: Ground) -> object:
    a, b = g.array(100), g.room(100)
    left, right = socket.socketpair()
    pipe = os.pipe()
    with left, right:
        g.gone(a, b)
        rights = struct.pack("i", pipe[1])
        left.sendmsg([a], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        got, ancillary, flags, _ = right.recvmsg_into([b], socket.CMSG_SPACE(4))
    (passed,) = struct.unpack("i", ancillary[0][2])
    os.write(passed, b"through")
    result = got, flags, os.read(pipe[0], 10), digest(b)
    for fd in (*pipe, passed):
        os.close(fd)
    return result


def _datagrams(g: Ground, left: socket.socket, right: socket.socket) -> object:
    """Send messages of every kind of size, each into memory that is absent: none is lost, cut or joined."""
    a, b = g.array(SIZE), g.room(SIZE)
    told = []
    sizes = [1, 100, PAGE, PAGE + 1, 20_000, SIZE]
    with left, right:
        right.settimeout(10)
        for turn, size in enumerate(sizes * 3):
            g.gone(a, b)
            sent = left.send(a[turn : turn + size]) if turn % 2 else left.sendmsg([a[: size // 2], a[size // 2 : size]])
            received = right.recvmsg_into([b[:7], b[7:]])[0] if turn % 3 else right.recv_into(b)
            told.append((sent, received, digest(b)))
        left.send(b"last")
        told.append((4, right.recv_into(b), digest(b)))
    return told


def datagrams(g: Ground) -> object:
    return _datagrams(g, *socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))


def packets_in_sequence(g: Ground) -> object:
    return _datagrams(g, *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))


def datagrams_over_udp(g: Ground) -> object:
    left, right = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    right.bind(("127.0.0.1", 0))
    left.connect(right.getsockname())
    return _datagrams(g, left, right)


def datagram_longer_than_its_room(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(PAGE)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        g.gone(a, b)
        left.send(a)
        got, _, flags, _ = right.recvmsg_into([b])
    return got, flags & socket.MSG_TRUNC, digest(b)


def address_of_the_sender(g: Ground) -> object:
    a, b = g.array(9000), g.room(9000)
    left, right = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with left, right:
        right.bind(("127.0.0.1", 0))
        left.bind(("127.0.0.1", 0))
        g.gone(a, b)
        sent = left.sendto(a, right.getsockname())
        received, sender = right.recvfrom_into(b)
        return sent, received, sender == left.getsockname(), digest(b)


def many_messages_in_one_call(g: Ground) -> object:
    """Headers, vectors and data of sendmmsg and recvmmsg all lie in paged memory."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    count, size = 4, 6000
    data, target = g.array(count * size), g.room(count * size)
    heads = [_headers(g, array.ctypes.data, count, size) for array in (data, target)]
    with left, right:
        g.gone(data, target, *heads)
        sent = call(SYS_SENDMMSG, left.fileno(), heads[0].ctypes.data, count, 0)
        received = call(SYS_RECVMMSG, right.fileno(), heads[1].ctypes.data, count, 0, 0)
    lengths = heads[1][: count * 64].view("u4")[14::16].tolist()
    return sent, received, lengths, digest(target)


def _headers(g: Ground, data: int, count: int, size: int) -> Bytes:
    room = g.room(3 * PAGE)
    words = room.view("u8")
    vectors = 2 * PAGE
    for i in range(count):
        words[i * 8 + 2] = room.ctypes.data + vectors + 16 * i
        words[i * 8 + 3] = 1
        words[vectors // 8 + 2 * i] = data + i * size
        words[vectors // 8 + 2 * i + 1] = size - i
    return room


def names_and_options(g: Ground) -> object:
    """Addresses, lengths and option values in paged memory."""
    place = g.room(4 * PAGE)
    words = place.view("u4")
    words[PAGE // 4] = 16
    words[2 * PAGE // 4] = 4
    at = place.ctypes.data
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        g.gone(place)
        named = libc("getsockname", server.fileno(), at + 3 * PAGE, at + PAGE)
        g.gone(place)
        asked = libc("getsockopt", server.fileno(), socket.SOL_SOCKET, socket.SO_TYPE, at, at + 2 * PAGE)
        port = int.from_bytes(place[3 * PAGE + 2 : 3 * PAGE + 4].tobytes(), "big")
        return named, asked, port == server.getsockname()[1], int(words[0]), int(words[PAGE // 4])


def _waiting(g: Ground, feed: Callable[[], object], receive: Callable[[], object]) -> object:
    """Receive in another thread, and use much memory before anything arrives."""
    told: list[object] = []
    begun = threading.Event()

    def work() -> None:
        begun.set()
        told.append(receive())

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    g.churn()
    feed()
    thread.join()
    return told


def stream_waited_for_while_others_page(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    left, right = socket.socketpair()
    with left, right:
        g.gone(a, b)
        told = _waiting(g, lambda: left.sendall(a), lambda: right.recv_into(b, SIZE, socket.MSG_WAITALL))
    return told, digest(b)


def datagram_waited_for_while_others_page(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        g.gone(a, b)
        told = _waiting(g, lambda: left.send(a), lambda: right.recv_into(b))
    return told, digest(b)
