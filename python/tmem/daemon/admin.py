# SPDX-License-Identifier: Apache-2.0
"""The administrator's door: Xen's verbs over a socket of its own, for root and the user that the daemon runs as.

Owns: that socket and what each verb does. Called by main, and by operators. Calls flow, pools, rows.
Law: whoever asks is known by the kernel's word; an answer comes to every question, and it is "failed" with the next
step where nothing was done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import pwd
import socket
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from tmem.daemon import peer as peers
from tmem.daemon.config import MOST_WEIGHT, Limits
from tmem.daemon.connection import Connection, let_descriptors, turn_away
from tmem.daemon.extent import PERSISTENT
from tmem.daemon.guest import Guest
from tmem.daemon.pools import digest_of
from tmem.daemon.rows import guest_row, host_row
from tmem.daemon.server import Server
from tmem.policies.shares import shares
from tmem.wire import SECRET_BYTES, VERSION, Error, WireError, pack, pack_answer, unpack_request

__all__ = ["Admin", "VerbError"]

_LOG = logging.getLogger(__name__)
_MOST_CONNECTIONS: Final = 32
_NO_DESCRIPTORS: Final = 0.2  # seconds until the next try to take a connection
_MOST_GRANTS: Final = 256  # secrets of one guest
_ANSWER_ROOM: Final = 8 << 20  # bytes of the largest answer: all guests, if the kernel lets a packet be so large
_SHORTER: Final = 200_000  # bytes that every kernel's sockets take
_SO_SNDBUFFORCE: Final = 32

Bytes = Annotated[int, Meta(ge=0, le=1 << 60)]
Who = str | int | None


class VerbError(Exception):
    """Nothing was done; the text says why and what to do."""


class _Arguments(Struct, forbid_unknown_fields=True, kw_only=True):
    guest: Who = None


class _List(_Arguments):
    long: bool = False


class _Set(_Arguments):
    weight: Annotated[int, Meta(ge=0, le=MOST_WEIGHT)] | None = None
    cap: Bytes | str | None = None
    reservation: Bytes | None = None
    compress: bool | None = None


class _SharedAuth(_Arguments):
    secret: Annotated[str, Meta(max_length=64)]
    allow: bool


class _Destroy(_Arguments):
    force: bool = False


class _Balloon(_Arguments):
    bytes: Bytes


class _Nothing(Struct, forbid_unknown_fields=True):
    pass


class Admin:
    """What an administrator may ask of a server's host."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._host, self._loop = server, server.host, loop
        self._listening: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._verbs: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
            "list": (_List, self._list),
            "freeze": (_Arguments, lambda said: self._freeze(said, frozen=True)),
            "thaw": (_Arguments, lambda said: self._freeze(said, frozen=False)),
            "set": (_Set, self._set),
            "shared-auth": (_SharedAuth, self._shared_auth),
            "freeable": (_Nothing, lambda _: {"bytes": self._host.ledger.freeable()}),
            "destroy": (_Destroy, self._destroy),
            "balloon": (_Balloon, self._balloon),
            "check": (_Nothing, lambda _: {"broken": self._host.check(), "blocks": self._host.ledger.blocks()}),
            "ping": (_Nothing, lambda _: {"version": VERSION, "pid": os.getpid()}),
        }

    def listen(self, sock: socket.socket) -> None:
        """Take connections from a socket that listens."""
        sock.settimeout(0)
        let_descriptors(sock, wanted=False)
        self._listening = sock
        self._loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Hang up."""
        sock, self._listening = self._listening, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        for connection in list(self._connections):
            connection.close("the daemon ends")

    def _accept(self) -> None:
        if self._listening is None:
            return
        try:
            sock, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError:  # no descriptors: who waits goes on waiting, and this loop does not spin
            self._loop.remove_reader(self._listening.fileno())
            self._loop.call_later(_NO_DESCRIPTORS, self._accept_again)
            return
        _, uid, _ = peers.credentials(sock)
        if uid not in {0, os.geteuid()}:
            why = f"user {uid} may not: ask as root or as the user that the daemon runs as"
            turn_away(self._loop, sock, pack(Error(why)))
        elif len(self._connections) >= _MOST_CONNECTIONS:
            turn_away(self._loop, sock, pack(Error("too many administrators are connected: close one of them")))
        else:
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ANSWER_ROOM)
            except OSError:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ANSWER_ROOM)
            self._connections.add(Connection(self._loop, sock, self, Limits()))

    def _accept_again(self) -> None:
        if self._listening is not None:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    # Connection's handler

    def packet(self, connection: Connection, packet: memoryview, fds: list[int], *, busy: bool) -> None:
        """Answer a question."""
        del fds, busy  # closed by the connection; an administrator may ask as fast as it reads the answers
        verb, arguments = "", dict[str, Any]()
        try:
            verb, arguments = unpack_request(packet)
            answer = pack_answer(self.do(verb, arguments))
        except (WireError, VerbError) as error:
            answer = pack_answer(None, str(error))
        except Exception as error:  # noqa: BLE001 - no question stops the daemon
            self._host.counters["internal_errors"] += 1
            _LOG.exception("an administrator's question met an error of ours")
            answer = pack_answer(None, f"the daemon failed at this ({type(error).__name__}): see its log")
        try:
            connection.send(answer)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            connection.send(self._shorter(verb, arguments))

    def _shorter(self, verb: str, arguments: dict[str, Any]) -> bytes:
        """Return the answer of `list`, the only long one, without what is zero: a client takes what is not there so."""
        result = self.do(verb, arguments)
        kept = ("weight", "compress")
        for number, row in enumerate(result.get("guests", ())):
            result["guests"][number] = {name: value for name, value in row.items() if value or name in kept}
        answer = pack_answer(result)
        if len(answer) > _SHORTER:
            return pack_answer(None, "the answer is too long for this user's sockets: name a guest, or be root")
        return answer

    def drained(self, connection: Connection) -> None:
        """Nothing waits for it."""

    def closed(self, connection: Connection, why: str) -> None:
        """Forget an administrator that has gone."""
        del why
        self._connections.discard(connection)

    # Verbs

    def do(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Do what a verb says and return its answer. VerbError where nothing was done."""
        if verb not in self._verbs:
            raise VerbError(f"unknown verb {verb[:32]!r}: this daemon knows {', '.join(self._verbs)}")
        kind, work = self._verbs[verb]
        try:
            said = msgspec.convert(arguments, kind)
        except msgspec.ValidationError as error:
            raise VerbError(f"{verb}: {error}") from None
        return work(said)

    def _list(self, said: _List) -> dict[str, Any]:
        host = self._host
        parts = shares(host.view())
        return {
            "host": host_row(host),
            "guests": [guest_row(host, guest, parts[guest.id] * host.unit) for guest in self._found(said.guest)],
            "pools": [pool.row() for pool in host.pools.values()],
        }

    def _freeze(self, said: _Arguments, *, frozen: bool) -> dict[str, Any]:
        guests = self._found(said.guest)
        for guest in guests:
            guest.frozen = frozen
            guest.tell_set()
            self._keep(guest)
        return {"guests": [guest.id for guest in guests]}

    def _set(self, said: _Set) -> dict[str, Any]:
        if isinstance(said.cap, str) and said.cap != "none":
            raise VerbError(f"cap {said.cap[:32]!r}: give bytes, or 'none' for no cap")
        if all(value is None for value in (said.weight, said.cap, said.reservation, said.compress)):
            raise VerbError("nothing to set: name a weight, a cap, a reservation or compress")
        guests = self._found(said.guest)
        for guest in guests:
            guest.weight = guest.weight if said.weight is None else said.weight
            guest.reservation = guest.reservation if said.reservation is None else said.reservation
            if said.cap is not None:
                guest.cap = None if isinstance(said.cap, str) else said.cap
            guest.changed()
            self._server.flow.hold_to_cap(guest)
            if said.compress is not None:
                guest.compress = said.compress
                guest.tell_set()
            self._keep(guest)
        return {"guests": [guest.id for guest in guests]}

    def _keep(self, guest: Guest) -> None:
        """Write down how a guest is set, for when it or this daemon comes back."""
        fields = ("weight", "cap", "reservation", "frozen", "compress")
        self._host.state.set(guest.key, {name: getattr(guest, name) for name in fields})

    def _shared_auth(self, said: _SharedAuth) -> dict[str, Any]:
        guest = self._one(said.guest, "shared-auth")
        try:
            secret = bytes.fromhex(said.secret.replace("-", ""))
        except ValueError:
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise VerbError(f"a secret is {2 * SECRET_BYTES} hexadecimal digits")
        digest = digest_of(secret)
        if said.allow and digest not in guest.grants and len(guest.grants) >= _MOST_GRANTS:
            raise VerbError(f"guest {guest.id} has {_MOST_GRANTS} grants already: take one back first")
        (guest.grants.add if said.allow else guest.grants.discard)(digest)
        self._host.state.allow(guest.key, digest, allowed=said.allow)
        if not said.allow:  # and it is a member no longer
            for pool in [self._host.pools[number] for number in guest.memberships]:
                if pool.digest == digest:
                    extents = self._server.pools.leave(guest, pool.id)
                    self._server.flow.revoke(guest, extents)
        who = {"guest": guest.id, "name": guest.name, "pid": guest.peer.pid, "user": guest.peer.user}
        return who | {"allowed": said.allow}

    def _destroy(self, said: _Destroy) -> dict[str, Any]:
        guest = self._one(said.guest, "destroy")
        held = guest.holding.bytes[PERSISTENT]
        if held and not said.force:
            raise VerbError(
                f"guest {guest.id} ({guest.name}) holds {held >> 20} MiB that it cannot do without: its program would "
                "end with a report; freeze it and wait, or force this"
            )
        freed = sum(guest.holding.bytes)
        self._server.throw_out(guest, "the administrator has ended this guest")
        return {"guest": guest.id, "bytes": freed}

    def _balloon(self, said: _Balloon) -> dict[str, Any]:
        guests = self._found(said.guest)
        for guest in guests:
            guest.inflate(said.bytes, self._host.now())
        return {"guests": [guest.id for guest in guests]}

    # Whom a question is about

    def _one(self, who: Who, verb: str) -> Guest:
        if who is None:
            raise VerbError(f"{verb} needs a guest: give an id, a name, pid:N or user:NAME")
        guests = self._found(who)
        if len(guests) > 1:
            ids = ", ".join(str(guest.id) for guest in guests)
            raise VerbError(f"{who!r} fits {len(guests)} guests ({ids}): give an id")
        return guests[0]

    def _found(self, who: Who) -> list[Guest]:
        """Return the guests that are meant; None means all of them. VerbError where there is none."""
        guests = self._host.guests
        if who is None:
            return list(guests.values())
        found = list(self._matching(str(who)))
        if not found:
            raise VerbError(f"no guest {str(who)[:80]!r}: `tmem list` shows those there are")
        return found

    def _matching(self, who: str) -> list[Guest]:
        guests = self._host.guests
        kind, _, value = who.partition(":")
        if kind == "pid" and value.isdecimal():
            return [guest for guest in guests.values() if guest.peer.pid == int(value)]
        if kind == "user" and value:
            uid = _uid(value)
            return [guest for guest in guests.values() if guest.peer.uid == uid]
        if who.isdecimal() and int(who) in guests:
            return [guests[int(who)]]
        return [guest for guest in guests.values() if guest.name == who]


def _uid(value: str) -> int:
    if value.isdecimal():
        return int(value)
    try:
        return pwd.getpwnam(value).pw_uid
    except KeyError:
        raise VerbError(f"no user {value[:32]!r} is here: use a name that `getent passwd` knows, or a number") from None
