# SPDX-License-Identifier: Apache-2.0
"""A guest in plain Python, for tests of the daemon: it says what it is told to say, and keeps what it gets."""

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tmem import wire

LARGEST = 1 << 23
ANCILLARY = socket.CMSG_SPACE(wire.MOST_FDS * 4)


class RawGuest:
    """A connection to a daemon, with a hello said unless `name` is None. Extents it holds are in `held`: id -> fd."""

    def __init__(self, path: object, name: str | None = "raw", timeout: float = 10.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(timeout)
        self.held: dict[int, int] = {}
        self.said: list[Any] = []  # what the host said unasked
        self.others: dict[int, int] = {}  # extents of other members, read-only
        self.board = -1
        self.refused = ""  # why the last question was
        self.welcome: wire.Welcome | None = None
        self._seq = 0
        try:
            self.socket.connect(str(path))
            if name is not None:
                self.welcome = self._hello(name)
        except BaseException:
            self.socket.close()
            raise

    def _hello(self, name: str) -> wire.Welcome:
        self.send(wire.Hello(wire.VERSION, name))
        answer, _ = self.recv()
        if isinstance(answer, wire.Error):
            raise ConnectionError(answer.text)
        assert isinstance(answer, wire.Welcome), answer
        return answer

    # Packets

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        self.send_raw(message if isinstance(message, bytes) else wire.pack(message), fds)

    def send_raw(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([packet], ancillary)

    def recv(self) -> tuple[Any, list[int]]:
        """Return the next message and its descriptors. ConnectionError at the end."""
        for _ in range(2):
            try:
                packet, ancillary, _, _ = self.socket.recvmsg(wire.LONGEST, ANCILLARY, socket.MSG_CMSG_CLOEXEC)
                break
            except ConnectionResetError:
                continue  # its last word may still be there
        else:
            raise ConnectionResetError
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        if not packet:
            raise ConnectionResetError("the host hung up")
        return wire.unpack_from_host(packet), fds.tolist()

    def answer(self, seq: int) -> tuple[Any, list[int]]:
        """Return the answer to a question; what else comes is noted."""
        while True:
            message, fds = self.recv()
            if isinstance(message, wire.Error):
                raise ConnectionError(message.text)
            if isinstance(message, wire.Granted | wire.Refused | wire.Done | wire.Joined) and message.seq == seq:
                self.refused = message.reason if isinstance(message, wire.Refused) else ""
                return message, fds
            self._note(message, fds)

    def listen(self, seconds: float) -> list[Any]:
        """Take what comes unasked for a while, and return all that did."""
        before, end = self.socket.gettimeout(), time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                self._note(*self.recv())
            except TimeoutError:
                break
        self.socket.settimeout(before)
        return self.said

    def wait_for(self, kind: type[Any], seconds: float = 5.0) -> Any:
        """Return the first message of a kind that came or comes unasked; it is taken out."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in self.said:
                if isinstance(message, kind):
                    self.said.remove(message)
                    return message
            self._note(*self.recv())
        raise TimeoutError(kind.__name__)

    def _note(self, message: Any, fds: list[int]) -> None:
        self.said.append(message)
        if isinstance(message, wire.Member):
            self.others |= dict(zip(message.ids, fds, strict=True))
        elif isinstance(message, wire.Revoked):
            for number in message.ids:
                fd = self.held.pop(number, self.others.pop(number, -1))
                if fd >= 0:
                    os.close(fd)

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # Questions

    def lease(self, count: int = 1, kind: int = 0, pool: int = 0) -> int:
        """Ask for extents; return how many came."""
        seq = self.next_seq()
        self.send(wire.Lease(seq, kind, pool, count))
        message, fds = self.answer(seq)
        if isinstance(message, wire.Refused):
            return 0
        assert len(message.ids) == len(fds)
        self.held |= dict(zip(message.ids, fds, strict=True))
        return len(fds)

    def extents(self) -> tuple[list[int], list[int]]:
        """Return numbers and descriptors of what it holds."""
        return list(self.held), list(self.held.values())

    def give(self, ids: Sequence[int]) -> None:
        """Give extents back, its own or not."""
        seq = self.next_seq()
        self.send(wire.Give(seq, list(ids)))
        message, _ = self.answer(seq)
        assert isinstance(message, wire.Done), message
        for number in ids:
            if number in self.held:
                os.close(self.held.pop(number))

    def claim(self, ids: Sequence[int], fds: Sequence[int], kind: int = 0, pool: int = 0) -> list[int]:
        """Claim extents; return their new numbers, 0 where one was not accepted. Accepted ones are held."""
        seq = self.next_seq()
        self.send(wire.Claim(seq, kind, pool, list(ids)), fds)
        message, _ = self.answer(seq)
        if isinstance(message, wire.Refused):
            return [0] * len(fds)
        found: list[int] = message.ids
        self.held |= {number: fd for number, fd in zip(found, fds, strict=True) if number}
        return found

    def join(self, secret: bytes) -> str:
        """Join a shared pool; return why not, or nothing. `pool` and `member` tell the rest."""
        seq = self.next_seq()
        self.send(wire.Join(seq, secret))
        message, fds = self.answer(seq)
        if isinstance(message, wire.Refused):
            return message.reason
        self.pool, self.member = message.pool, message.member
        if self.board >= 0:
            os.close(self.board)
        (self.board,) = fds
        return ""

    def close(self) -> None:
        """Hang up, and let go of all descriptors."""
        self.socket.close()
        for fd in [*self.held.values(), *self.others.values(), self.board]:
            if fd >= 0:
                os.close(fd)
        self.held, self.others, self.board = {}, {}, -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RawAdmin:
    """A connection to the administrator's socket."""

    def __init__(self, path: object) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        try:
            self.socket.connect(f"{path}.admin")
        except OSError:
            self.socket.close()
            raise

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Return the answer; ValueError with the text of a failure."""
        self.socket.send(wire.pack_request(verb, arguments))
        word, said = wire.unpack_answer(self.socket.recv(LARGEST))
        if word != "ok":
            raise ValueError(said)
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
