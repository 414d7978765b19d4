# SPDX-License-Identifier: Apache-2.0
"""One connection: packets in, packets out, never a wait.

Owns: the socket, the packets that wait to go out, and the rate at which packets are taken in. Called by server and
admin. Calls the event loop. All runs in the loop's one thread.
Law: nobody holds up anybody else. Who sends faster than the rate is read more slowly; who does not read its answers is
not asked for more questions; who leaves a full queue alone for long is cut off. What waits for one guest is bounded, in
packets and in descriptors. While there are guests of several users, none takes more than half of the daemon's time.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from tmem.daemon import closing
from tmem.daemon.config import Limits
from tmem.wire import LONGEST, MOST_FDS

__all__ = ["Bucket", "Connection", "Handler", "let_descriptors", "turn_away"]

_AT_ONCE: Final = 32  # packets taken from one connection before others have their turn
_PAUSED: Final = 32  # packets that wait, from which on no more questions are taken
_DRAINED: Final = 8
_FD_SIZE: Final = array.array("i").itemsize
_ANCILLARY: Final = socket.CMSG_SPACE(MOST_FDS * _FD_SIZE)
_LATER: Final = 0.05  # seconds, where the kernel has too many descriptors on their way
_LAST: Final = 1024  # packets read and dropped as a connection ends
_TURN_SECONDS: Final = 0.002  # after which others have their turn
_UNREAD: Final = 4096  # bytes that the other side has not read, in the kernel's count: a few packets
_SEND_BUFFER: Final = 32768  # of a guest's connection: what lies there is counted as this daemon's, descriptors too
_PASS_RIGHTS: Final = 83  # SO_PASSRIGHTS, from Linux 6.16 on

_TURN_AWAY_SECONDS: Final = 0.5
_MOST_TURNED_AWAY: Final = 64

_turned_away: Final[deque[socket.socket]] = deque()
_buffer: Final = bytearray(LONGEST + 1)  # for all: a packet is decoded before the next is read
_view: Final = memoryview(_buffer)


class Bucket:
    """A rate: `rate` tokens a second come in, up to `burst`."""

    __slots__ = ("burst", "rate", "since", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self.tokens = burst
        self.since = now

    def take(self, now: float, tokens: float = 1.0) -> float:
        """Take tokens and return what is left; below zero is debt."""
        self.tokens = min(self.burst, self.tokens + (now - self.since) * self.rate) - tokens
        self.since = now
        return self.tokens


class Handler(Protocol):
    """Who a connection works for."""

    def packet(self, connection: Connection, packet: memoryview, fds: list[int], *, busy: bool) -> None:
        """Take a packet. What is left in `fds` afterwards is closed; `packet` is gone. `busy`: over the rate."""

    def drained(self, connection: Connection) -> None:
        """Take note that what waited has gone out."""

    def closed(self, connection: Connection, why: str) -> None:
        """Take note that the connection has ended, by whichever side."""


class Connection:
    """A SOCK_SEQPACKET connection of the event loop, to a process of user `uid`. `time`: the seconds it may take."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        handler: Handler,
        limits: Limits,
        *,
        uid: int = 0,
        time: Bucket | None = None,
    ) -> None:
        self._loop, self._sock, self._handler, self.limits = loop, sock, handler, limits
        self._uid, self._time = uid, time
        self._bucket = Bucket(limits.message_rate, limits.message_burst, loop.time())
        self._queue: deque[tuple[bytes, list[int], str]] = deque()
        self._progress = 0.0  # when something of the queue was taken last
        self._reading = self._writing = False
        self._resume: asyncio.TimerHandle | None = None
        self.open = True
        sock.settimeout(0)
        if time is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._read_on()

    @property
    def congested(self) -> bool:
        """Whether so much waits that only what must be said should be."""
        return len(self._queue) >= _PAUSED

    @property
    def waiting(self) -> int:
        """How many packets wait."""
        return len(self._queue)

    @property
    def attentive(self) -> bool:
        """Whether it has read what it was told, but for a little: only then is it sent more descriptors.

        Those that lie unread are counted against all that this daemon may have on their way, to whomever.
        """
        if self._queue or not self.open:
            return False
        try:
            unread = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return False
        return int(struct.unpack("i", unread)[0]) <= _UNREAD

    def take_descriptors(self) -> None:
        """Let it send descriptors, which nobody may who has not said hello."""
        let_descriptors(self._sock, wanted=True)

    def send(self, packet: bytes, fds: Sequence[int] = (), latest: str = "") -> None:
        """Send a packet with copies of descriptors, now or when there is room.

        Of the packets with the same `latest` only the last waits: what it says replaces what the others said.
        """
        if not self.open:
            return
        if not self._queue:
            if self._send_now(packet, fds):
                return
            self._progress = self._loop.time()
        elif latest:
            self._drop(latest)
        if self._is_stuck():
            # Not here: whoever sends is in the middle of something that a death would pull away.
            self._loop.call_soon(self.close, "it does not read what it is told")
            return
        self._queue.append((packet, [os.dup(fd) for fd in fds], latest))
        if len(self._queue) >= _PAUSED:
            self._read_off()

    def fail(self, packet: bytes, why: str) -> None:
        """Say why, and hang up."""
        with suppress(OSError):
            self._sock.send(packet)
        self.close(why)

    def close(self, why: str) -> None:
        """Hang up. The handler is told."""
        if not self.open:
            return
        self.open = False
        self._read_off()
        self._write_off()
        if self._resume is not None:
            self._resume.cancel()
        while self._queue:
            _close_all(self._queue.popleft()[1])
        self._drain()
        closing.close([self._sock.detach()], self._uid)
        self._handler.closed(self, why)

    # In

    def _readable(self) -> None:
        began = now = self._loop.time()
        if self._time is not None and (left := self._time.take(now, 0.0)) < 0:
            self._rest(-left / self._time.rate)
            return
        for _ in range(_AT_ONCE):
            if not self._reading or not self._take_one():
                break
            if (now := self._loop.time()) - began > _TURN_SECONDS:
                break
        if self._time is not None:
            now = self._loop.time()
            self._time.take(now, now - began)

    def _take_one(self) -> bool:
        try:
            size, ancillary, flags, _ = self._sock.recvmsg_into([_buffer], _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.close(error.strerror or "error")
            return False
        fds = _descriptors(ancillary)
        try:
            if size == 0:
                self.close("it hung up")
                return False
            # Fewer descriptors than there is room for: this process can have no more. They may be sent again.
            starved = flags & socket.MSG_CTRUNC and len(fds) < MOST_FDS
            if flags & socket.MSG_TRUNC or (flags & socket.MSG_CTRUNC and not starved):
                size = LONGEST + 1  # too long for any message: refused as such
            tokens = self._bucket.take(self._loop.time())
            self._handler.packet(self, _view[:size], fds, busy=bool(tokens < 0 or starved))
            if tokens < -self._bucket.burst:
                self._rest(-tokens / self._bucket.rate)
        finally:
            closing.close(fds, self._uid)
        return self.open

    def _rest(self, seconds: float) -> None:
        """Take nothing in until the debt is paid: the sender's packets wait in its own socket."""
        self._read_off()
        if self.open and self._resume is None:
            self._resume = self._loop.call_later(seconds, self._rested)

    def _rested(self) -> None:
        self._resume = None
        if len(self._queue) < _PAUSED:
            self._read_on()

    def _read_on(self) -> None:
        if self.open and not self._reading and self._resume is None:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _read_off(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    # Out

    def _send_now(self, packet: bytes, fds: Sequence[int]) -> bool:
        """Return whether the packet is gone, or need not go any more because the connection ended."""
        try:
            if fds:
                self._sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            else:
                self._sock.send(packet)
        except (BlockingIOError, InterruptedError):
            self._write_on()
            return False
        except OSError as error:
            if error.errno in (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM):
                self._write_off()
                self._loop.call_later(_LATER, self._writable)
                return False
            if error.errno == errno.EMSGSIZE:
                raise
            self._loop.call_soon(self.close, "it hung up")  # not here, as above
            return True
        return True

    def _writable(self) -> None:
        while self._queue and self.open:
            packet, fds, _ = self._queue[0]
            if not self._send_now(packet, fds):
                return
            self._progress = self._loop.time()
            self._queue.popleft()
            _close_all(fds)
        self._write_off()
        self._after_progress()

    def _after_progress(self) -> None:
        if self.open and len(self._queue) <= _DRAINED:
            self._read_on()
            self._handler.drained(self)

    def _drop(self, latest: str) -> None:
        for at, (_, fds, key) in enumerate(self._queue):
            if key == latest:
                _close_all(fds)
                del self._queue[at]
                return

    def _is_stuck(self) -> bool:
        waiting, most = len(self._queue), self.limits.queue
        idle = self._loop.time() - self._progress
        return waiting > 4 * most or (waiting > most and idle > self.limits.idle_reader_seconds)

    def _write_on(self) -> None:
        if not self._writing and self.open:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _write_off(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    def _drain(self) -> None:
        """Read what is left, so that the other side finds our last word and not a reset."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)
            for _ in range(_LAST):
                size, ancillary, _, _ = self._sock.recvmsg_into([bytearray(1)], _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
                closing.close(_descriptors(ancillary), self._uid)
                if size == 0:
                    return


def turn_away(loop: asyncio.AbstractEventLoop, sock: socket.socket, packet: bytes) -> None:
    """Say why a connection is not taken, and close it a little later.

    At once, its first message would find nobody, and it might never read why.
    """
    with suppress(OSError):
        sock.settimeout(0)
        sock.send(packet)
    _turned_away.append(sock)
    if len(_turned_away) > _MOST_TURNED_AWAY:
        _turned_away.popleft().close()
    loop.call_later(_TURN_AWAY_SECONDS, sock.close)


def let_descriptors(sock: socket.socket, *, wanted: bool) -> None:
    """Say whether descriptors may be sent to a socket, or to those that it will accept. Older kernels take them all."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _PASS_RIGHTS, int(wanted))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a packet; they are ours from here on."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % _FD_SIZE])
    return found.tolist()


def _close_all(fds: list[int]) -> None:
    while fds:
        with suppress(OSError):
            os.close(fds.pop())
