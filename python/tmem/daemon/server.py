# SPDX-License-Identifier: Apache-2.0
"""The guests' door: who may come in, what each packet means, and what happens when a guest ends.

Owns: the listening socket and the guests' connections. Called by main. Calls connection, peer, flow, pools.
Law: a guest is its connection (law 18). When it ends, by a hang-up or by the death of its process, all that it held is
emptied, whoever else has descriptors of it. When the daemon ends, nothing is.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from tmem.daemon import closing
from tmem.daemon import peer as peers
from tmem.daemon.connection import Bucket, Connection, let_descriptors, turn_away
from tmem.daemon.flow import Flow, MisuseError
from tmem.daemon.guest import Guest
from tmem.daemon.host import Host
from tmem.daemon.peer import Peer, PeerRefusedError
from tmem.daemon.pools import PoolFull, Pools
from tmem.wire import (
    LONGEST_NAME,
    VERSION,
    Ballooned,
    Claim,
    Done,
    Error,
    Give,
    GuestMessage,
    Hello,
    Join,
    Lease,
    Leave,
    Report,
    Shrunk,
    Welcome,
    WireError,
    pack,
    unpack_from_guest,
)

__all__ = ["Server"]

_LOG = logging.getLogger(__name__)
_AT_ONCE: Final = 32
_HELLO_SECONDS: Final = 5.0
_NO_DESCRIPTORS: Final = 0.2  # seconds until the next try to take a connection
_PART: Final = 0.5  # of the daemon's time, for one user where there are others
_ALL: Final = 1e6  # for one who is alone
_AHEAD: Final = 0.2  # seconds of it that can be used at once
_EMPTIED_AT_ONCE: Final = 8  # extents of the dead: some milliseconds, then whoever lives has a turn


class Server:
    """Guests of a host, as connections."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.host = host
        self.pools = Pools(host)
        self.flow = Flow(host, self.pools)
        self._loop = loop
        self._listening: socket.socket | None = None
        self._new: dict[Connection, tuple[Peer, asyncio.TimerHandle]] = {}
        self._guests: dict[Connection, Guest] = {}
        self._users: Counter[int] = Counter()
        self._times: dict[int, Bucket] = {}  # user -> the daemon's time that is left to it
        self._emptying = False
        self._closing = False
        self._verbs: dict[type, Callable[[Guest, Any, list[int]], None]] = {
            Lease: lambda guest, said, _: self.flow.lease(guest, said),
            Give: lambda guest, said, _: self.flow.give(guest, said),
            Claim: self.flow.claim,
            Report: lambda guest, said, _: guest.take_report(said, host.now()),
            Shrunk: lambda guest, said, _: self.flow.shrunk(guest, said),
            Ballooned: lambda guest, said, _: self.flow.ballooned(guest, said),
            Join: self._join,
            Leave: self._leave,
        }

    def listen(self, sock: socket.socket) -> None:
        """Take connections from a socket that listens."""
        sock.settimeout(0)
        let_descriptors(sock, wanted=False)
        self._listening = sock
        self._loop.add_reader(sock.fileno(), self._accept)

    def stop_listening(self) -> None:
        """Take no more connections."""
        sock, self._listening = self._listening, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def close(self) -> None:
        """Hang up on all guests and take nothing from them: they keep what they hold, for the next daemon."""
        self._closing = True
        self.stop_listening()
        last = pack(Error("this host ends: what you hold stays yours, and the next host takes your claim"))
        for connection in [*self._new, *self._guests]:
            connection.fail(last, "the daemon ends")
        self.host.ledger.let_go()

    # The door

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if self._listening is None:
                return
            try:
                sock, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:  # no descriptors, no memory: those who wait go on waiting
                _LOG.warning("no connection can be taken now (%s)", error.strerror)
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(_NO_DESCRIPTORS, self._accept_again)
                return
            self._welcome_or_not(sock)

    def _accept_again(self) -> None:
        if self._listening is not None:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _welcome_or_not(self, sock: socket.socket) -> None:
        config = self.host.config
        try:
            who = peers.look(
                sock, allow_overflow_uid=config.allow_overflow_uid, allow_invisible_pid=config.allow_invisible_pid
            )
        except (PeerRefusedError, OSError, ValueError, IndexError) as error:  # /proc shows less and less of who ends
            self._turn_away(sock, str(error))
            return
        limits = config.limits
        if len(self._new) + len(self._guests) >= limits.guests:
            why = f"the host has {limits.guests} guests, which is all it takes: try again later"
        elif self._users[who.uid] >= limits.guests_per_user:
            why = f"user {who.user} has {limits.guests_per_user} guests here, which is all one user may have"
        elif closing.waiting(who.uid) > closing.MOST_WAITING:
            why = f"user {who.user} has sent descriptors that cannot be closed: try again when they can"
        else:
            self._users[who.uid] += 1
            connection = Connection(self._loop, sock, self, limits, uid=who.uid, time=self._time_of(who.uid))
            timer = self._loop.call_later(_HELLO_SECONDS, self._throw_out, connection, "no hello came")
            self._new[connection] = (who, timer)
            return
        who.close()
        self._turn_away(sock, why)

    def _time_of(self, uid: int) -> Bucket:
        """Return the time that is left to a user; a debt outlives the connections that made it."""
        self._times.setdefault(uid, Bucket(_ALL, _AHEAD, self._loop.time()))
        self._share_time()
        return self._times[uid]

    def _share_time(self) -> None:
        now, rate = self._loop.time(), _PART if len(self._users) > 1 else _ALL
        for uid, time in list(self._times.items()):
            if time.take(now, 0.0) >= _AHEAD and uid not in self._users:
                del self._times[uid]
            time.rate = rate

    def _turn_away(self, sock: socket.socket, why: str) -> None:
        self.host.counters["turned_away"] += 1
        turn_away(self._loop, sock, pack(Error(why)))

    def _throw_out(self, connection: Connection, why: str) -> None:
        connection.fail(pack(Error(why[:1000])), why)

    # Packets

    def packet(self, connection: Connection, packet: memoryview, fds: list[int], *, busy: bool) -> None:
        """Take a guest's packet."""
        try:
            said = unpack_from_guest(packet)
            guest = self._guests.get(connection)
            if guest is not None:
                self._serve_or_refuse(guest, said, fds, busy=busy)
            elif connection in self._new:
                self._hello(connection, said, fds)
        except (WireError, MisuseError) as error:
            self.host.counters["malformed"] += 1
            self._throw_out(connection, f"malformed: {error}")
        except Exception:  # noqa: BLE001 - no message stops the daemon
            self.host.counters["internal_errors"] += 1
            _LOG.exception("a hello met an error of ours")
            self._throw_out(connection, "the host failed at this: see its log")

    def _serve_or_refuse(self, guest: Guest, said: GuestMessage, fds: list[int], *, busy: bool) -> None:
        """Serve a guest; an error of ours does not cost it what it holds."""
        try:
            self._serve(guest, said, fds, busy=busy)
        except MisuseError:
            raise
        except Exception:  # noqa: BLE001 - no message stops the daemon
            self.host.counters["internal_errors"] += 1
            _LOG.exception("a message of guest %d met an error of ours", guest.id)
            if isinstance(said, Lease | Claim | Join):
                self.flow.refuse(guest, said.seq, "busy")

    def _serve(self, guest: Guest, said: GuestMessage, fds: list[int], *, busy: bool) -> None:
        if busy:
            self.host.counters["rate_limited"] += 1
            if isinstance(said, Lease | Claim | Join):
                self.flow.refuse(guest, said.seq, "busy")
                return
        if fds and not isinstance(said, Claim):
            raise MisuseError("descriptors that nobody asked for")
        verb = self._verbs.get(type(said))
        if verb is None:
            raise MisuseError("a second hello")
        verb(guest, said, fds)

    def _hello(self, connection: Connection, said: GuestMessage, fds: list[int]) -> None:
        if not isinstance(said, Hello) or fds:
            raise MisuseError("the first message is to be hello")
        if said.version != VERSION:
            raise MisuseError(
                f"version {said.version} is not spoken here, only {VERSION}: use the same tmem on both sides"
            )
        if len(said.name.encode("utf-8", "surrogatepass")) > LONGEST_NAME or not said.name.isprintable():
            raise MisuseError(f"a name is to be printable and at most {LONGEST_NAME} bytes long")
        who, timer = self._new[connection]
        guest = self._enter(connection, who, said.name)
        timer.cancel()
        del self._new[connection]
        self._guests[connection] = guest
        host = self.host
        connection.take_descriptors()
        connection.send(pack(Welcome(VERSION, guest.id, host.unit, host.most(guest), host.config.report_ms)))
        if guest.frozen or not guest.compress:
            guest.tell_set()

    def _enter(self, connection: Connection, who: Peer, name: str) -> Guest:
        host = self.host
        guest = Guest(host.number(), name or f"pid-{who.pid}", who, connection, host.now())
        terms = host.config.terms(who.uid, guest.name, host.ledger.capacity)
        guest.weight, guest.cap, guest.reservation = terms.weight, terms.cap, terms.reservation
        if who.pid:  # else anybody unseen who takes that name would be taken for it
            for field, value in host.state.terms(guest.key).items():  # what the operator had set before
                if field in {"weight", "cap", "reservation", "frozen", "compress"}:
                    setattr(guest, field, value)
            guest.grants = host.state.allowed(guest.key)
        guest.holding = host.ledger.open(guest.id)
        host.guests[guest.id] = guest
        if who.pidfd >= 0:
            self._loop.add_reader(who.pidfd, connection.close, "its process ended")
        return guest

    def drained(self, connection: Connection) -> None:
        """Tell a guest that reads again what could wait."""
        if (guest := self._guests.get(connection)) is not None:
            guest.tell_revoked()
            self.pools.drained(guest)

    def _join(self, guest: Guest, said: Join, _: list[int]) -> None:
        if not guest.link.attentive:
            self.flow.refuse(guest, said.seq, "busy")
            return
        try:
            pool = self.pools.join(guest, said.secret)
        except (PoolFull, OSError):
            self.flow.refuse(guest, said.seq, "quota")
            return
        if pool is None:
            self.flow.refuse(guest, said.seq, "not-granted")
        else:
            self.pools.welcome(guest, pool, said.seq)

    def _leave(self, guest: Guest, said: Leave, _: list[int]) -> None:
        if said.pool in guest.memberships:
            self.flow.end(guest, self.pools.leave(guest, said.pool))
        guest.link.send(pack(Done(said.seq)))

    # The end of a guest

    def closed(self, connection: Connection, why: str) -> None:
        """Let go of what belongs to a connection that has ended."""
        if (new := self._new.pop(connection, None)) is not None:
            who, timer = new
            timer.cancel()
        elif (guest := self._guests.pop(connection, None)) is not None:
            who = guest.peer
            if who.pidfd >= 0:
                self._loop.remove_reader(who.pidfd)
            self._bury(guest, why)
        else:
            return
        self._users[who.uid] -= 1
        if not self._users[who.uid]:
            del self._users[who.uid]
            self._share_time()
        who.close()

    def _bury(self, guest: Guest, why: str) -> None:
        host = self.host
        if self._closing:
            return
        _LOG.info("guest %d (%s, process %d) has ended: %s", guest.id, guest.name, guest.peer.pid, why)
        host.counters["deaths"] += 1
        del host.guests[guest.id]
        for number in list(guest.memberships):
            self.pools.leave(guest, number)  # before its memory goes
        for one in host.ledger.close(guest.id):
            host.state.ended(one.inode)
        self.flow.settle(guest)
        host.state.left(guest.peer.process)
        if host.ledger.ending and not self._emptying:
            self._emptying = True
            self._empty()

    def _empty(self) -> None:
        self._emptying = self.host.ledger.end_some(_EMPTIED_AT_ONCE)
        if self._emptying:
            self._loop.call_soon(self._empty)

    def throw_out(self, guest: Guest, why: str) -> None:
        """End a guest: all it holds is emptied."""
        self._throw_out(guest.link, why)
