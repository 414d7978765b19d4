# SPDX-License-Identifier: Apache-2.0
"""The operator's side of the daemon: asks at the administrator's socket, and knows what the answers hold.

Owns: the connection, the names and units of what the daemon tells of its host, guests and pools. Called by the verbs of
the command line and by top. Calls hostpath.
Law: one question at a time, each with an end: an answer, or a TmemError with the next step. A field that this version
does not know is passed over; one that is not there has its default.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from tmem import hostpath
from tmem.errors import TmemError

__all__ = ["GuestRow", "HostAwayError", "HostRow", "Operator", "Overview", "admin_path", "overview_of"]

TIMEOUT: Final = 5.0
"""Seconds that the daemon has for an answer."""

LARGEST_ANSWER: Final = 8 << 20
"""An answer from here on, in bytes, is none of a daemon's."""

_SUFFIX = ".admin"
_ROOT = 0
_CREDENTIALS = struct.Struct("3i")
_OTHER_VERSION = "the daemon at {path} answers in a way that this tmem does not know ({why}): use the tmem it runs with"


class HostAwayError(TmemError):
    """No daemon answers where one was looked for; it may come back."""


class HostRow(msgspec.Struct, frozen=True, kw_only=True):
    """The host as the daemon tells it. Sizes are bytes."""

    version: int | str = ""  # of the daemon
    policy: str = ""  # who decides what is granted
    capacity: int = 0  # what it may lease in all
    extent_bytes: int = 0  # the unit of a lease
    leased_bytes: int = 0  # what the guests hold
    free_bytes: int = 0  # what nobody holds
    freeable_bytes: int = 0  # of the leased: ephemeral, and so taken back at once
    reserved_bytes: int = 0  # held by guests of the last daemon, who are awaited for a while
    guests: int = 0
    pools: int = 0
    pressure: float = 0.0  # the share of time in which somebody waited for memory, from 0 to 1
    since: float = 0.0  # when it started, in seconds since 1970
    counters: Mapping[str, Any] = {}  # leases, granted, refused by reason, revoked, given, ...

    @property
    def refused(self) -> Mapping[str, int]:
        """How often a lease was refused, by reason."""
        found = self.counters.get("refused")
        return found if isinstance(found, Mapping) else {}


class GuestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One guest as the daemon tells it. Sizes are bytes; what it reports of itself is its own word."""

    id: int = 0
    name: str = ""
    pid: int = 0
    uid: int = 0
    user: str | None = None
    cgroup: str | None = None
    weight: int = 1
    cap: int | None = None  # what it may hold at most
    reservation: int = 0  # what is kept for it
    compress: bool = True
    frozen: bool = False  # gets no more leases, and takes no puts
    persistent_bytes: int = 0  # leased, and its own until it gives them back
    ephemeral_bytes: int = 0  # leased, and taken back at once where another needs them
    shared_bytes: int = 0  # leased for pools shared with others
    share_bytes: int = 0  # what its weight comes to
    want_bytes: int = 0  # refused lately, and still wanted
    connected: float = 0.0  # seconds
    balloon: int | None = None  # what it was asked to shrink its memory to
    ram: int = 0  # its own budget
    resident: int = 0
    standby: int = 0
    store_bytes: int = 0  # the part of its page store that lies in its own memory
    leased_used: int = 0  # of the leased memory, what holds pages
    stored_pages: int = 0
    swap_bytes: int = 0
    faults: int = 0
    fault_ns: int = 0
    loads: int = 0
    stores: int = 0
    refused_full: int = 0
    sampled: int = 0
    active: int = 0
    faults_s: float = 0.0
    stall: float = 0.0  # the share of time that its threads waited for pages, from 0 to 1
    refused: Mapping[str, int] = {}  # how often its asking was refused, by reason

    @property
    def lease_bytes(self) -> int:
        """All that it holds of the host's memory."""
        return self.persistent_bytes + self.ephemeral_bytes + self.shared_bytes

    @property
    def stored_bytes(self) -> int:
        """What its stored pages take, in its own memory and in what it leased."""
        return self.store_bytes + self.leased_used

    @property
    def owner(self) -> str:
        """The user's name, or the number where there is none."""
        return self.user or str(self.uid)


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What `list` answers."""

    host: HostRow = HostRow()
    guests: tuple[GuestRow, ...] = ()
    pools: tuple[Mapping[str, Any], ...] = ()


def admin_path(given: str | None = None) -> str:
    """Return the administrator's socket that belongs to the guests' socket `given`, or to the one found here."""
    guests = given or hostpath.find("auto")
    if guests is None:
        raise HostAwayError(
            f"no daemon is found here ({hostpath.default_path()} is not there): start one with `tmem daemon`, or name "
            "its socket with --socket PATH"
        )
    return guests if guests.endswith(_SUFFIX) else guests + _SUFFIX


def overview_of(answer: object, path: str = "") -> Overview:
    """Return the answer to `list` with its types checked. TmemError where it is of another version."""
    try:
        return msgspec.convert(answer, Overview)
    except msgspec.ValidationError as error:
        raise TmemError(_OTHER_VERSION.format(path=path, why=error)) from None


class Operator:
    """A connection to the daemon whose guests meet at `path`, or to the one found here. Made with the first question.

    After an error it is closed, and the next question makes it anew: a daemon may come back. Not for two threads at
    once.
    """

    def __init__(self, path: str | None = None) -> None:
        self._given = path
        self._open: socket.socket | None = None
        self.path = ""  # the administrator's socket, from the first question on

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def interrupt(self) -> None:
        """End the wait for an answer. The one thing that another thread may do."""
        link = self._open
        if link is not None:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def ask(self, verb: str, **arguments: object) -> Any:
        """Ask, and return the answer. HostAwayError where no daemon is there; TmemError where it says no."""
        try:
            link = self._open = self._open or self._connect()
            link.send(msgspec.msgpack.encode([verb, arguments]))
            answer = self._answer(link)
        except TmemError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise self._explained(error) from None
        if answer[0] == "failed":
            raise TmemError(str(answer[1]))
        return answer[1]

    def list(self, guest: str | None = None, *, long: bool = False) -> Overview:
        """Return the host, the guests that `guest` names (None: all) and the pools."""
        answer = self.ask("list", guest=guest, long=long)
        return overview_of(answer, self.path)

    def _connect(self) -> socket.socket:
        self.path = admin_path(self._given)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            link.settimeout(TIMEOUT)
            link.connect(self.path)
            _, uid, _ = _CREDENTIALS.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        except OSError:
            link.close()
            raise
        if uid not in {_ROOT, os.geteuid()} and os.geteuid() != _ROOT:
            link.close()
            raise TmemError(f"the daemon at {self.path} runs as user {uid}, not as you or root: it is not asked")
        return link

    def _answer(self, link: socket.socket) -> tuple[str, object]:
        """Read one answer, whatever its size, and return its word and what stands behind it."""
        size = link.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
        if size == 0:
            raise ConnectionResetError
        if size > LARGEST_ANSWER:
            raise TmemError(_OTHER_VERSION.format(path=self.path, why=f"{size} bytes"))
        packet = link.recv(size)
        try:
            word, said = msgspec.msgpack.decode(packet, type=tuple[str, Any])
        except msgspec.MsgspecError as error:
            raise TmemError(_OTHER_VERSION.format(path=self.path, why=error)) from None
        if word == "error":  # what a guest is told
            raise TmemError(f"the daemon at {self.path} refuses: {said}")
        if word not in {"ok", "failed"}:
            raise TmemError(_OTHER_VERSION.format(path=self.path, why=f"it says {word!r}"))
        return word, said

    def _explained(self, error: OSError) -> TmemError:
        """Return what is the matter, and the next step."""
        at = self.path
        if isinstance(error, TimeoutError):
            return HostAwayError(
                f"the daemon at {at} does not answer within {TIMEOUT:.0f} s: see whether it is stopped"
            )
        if isinstance(error, PermissionError):
            return TmemError(f"you may not ask the daemon at {at}: do so as root or as the user that it runs as")
        if isinstance(error, FileNotFoundError):
            return HostAwayError(f"no daemon is at {at}: start one with `tmem daemon`, or name another --socket PATH")
        if isinstance(error, ConnectionRefusedError):
            return HostAwayError(f"the daemon at {at} is gone, its socket is left: start it again with `tmem daemon`")
        if isinstance(error, ConnectionError):
            return HostAwayError(f"the daemon at {at} hung up: see its log for why, or whether it still runs")
        return TmemError(f"the daemon at {at} cannot be asked ({error.strerror or error}): check --socket PATH")
