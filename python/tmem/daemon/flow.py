# SPDX-License-Identifier: Apache-2.0
"""The flow of a lease: a guest asks, the ledger knows, the policy decides, the host grants; and the way back.

Owns: the order of these steps. Called by server, admin and the clock. Calls ledger, policies, pools, guests.
Law: whatever a policy says, nobody gets more than there is, than its cap, than its quota, or anything while frozen.
What breaks that is an error of ours: logged, counted, refused.
"""

from __future__ import annotations

import logging
from typing import Final

from tmem import policies
from tmem.daemon import extent
from tmem.daemon.extent import EPHEMERAL, PERSISTENT, Extent, ExtentError, NoRoomError
from tmem.daemon.guest import Guest
from tmem.daemon.host import Host
from tmem.daemon.pools import Pools
from tmem.policies import Decision, Request
from tmem.policies.shares import lendable
from tmem.wire import REASONS, Ballooned, Claim, Done, Give, Granted, Lease, Refused, Shrunk, pack

__all__ = ["Flow", "MisuseError"]

_LOG = logging.getLogger(__name__)
_RETRY_MS: Final = {"busy": 50, "host-full": 100, "bad-extent": 0, "no-policy": 5000, "not-granted": 1000}
_RETRY_OTHER: Final = 1000
_SILENT_SECONDS: Final = 10.0
_AT_ONCE: Final = 128 * extent.MEBIBYTE  # of one answer: the kernel clears it while all others wait
_LARGEST: Final = 64 * extent.MEBIBYTE


class MisuseError(Exception):
    """A guest names what is not its own, or sends other descriptors than it says: it is hung up on."""


class Flow:
    """What guests may do to a host's memory, and the host to theirs."""

    def __init__(self, host: Host, pools: Pools) -> None:
        self.host, self.pools = host, pools
        self._silent_until: dict[str, float] = {}

    # A guest asks

    def lease(self, guest: Guest, ask: Lease) -> None:
        """Grant extents, or refuse."""
        host = self.host
        host.counters["leases"] += 1
        self.settle(guest)
        room, reason = self._barred(guest, ask.kind, ask.pool)
        count = min(ask.count, room // host.unit, max(1, _AT_ONCE // host.unit))
        if count > 0 and not guest.link.attentive:
            count, reason = 0, "busy"
        if count <= 0:
            self.refuse(guest, ask.seq, reason)
            return
        decision = self._decide(guest, ask, count)
        self._take_back(decision)
        made = self._make(guest, decision.grant, ask.kind, ask.pool)
        now = host.now()
        if made:
            guest.went(count - len(made), len(made), now)
            host.counters["granted"] += len(made)
            try:
                guest.link.send(pack(Granted(ask.seq, [one.id for one in made])), [one.fd for one in made])
            except OSError:  # no descriptors for those that would have to wait
                self.end(guest, made)
                self.refuse(guest, ask.seq, "busy")
                return
            if ask.pool:
                self.pools.tell_others(ask.pool, guest)
        else:
            reason = decision.reason if decision.reason in REASONS else "host-full"
            if reason == "host-full":
                guest.went(count, 0, now)
            self.refuse(guest, ask.seq, reason)
        self._ask_others(decision)

    def settle(self, guest: Guest) -> None:
        """Keep nothing more for a guest of the last daemon: it asks for more, or ends, and has claimed what it has."""
        if not guest.settled:
            guest.settled = True
            freed = self.host.state.settle(guest.key, guest.was)
            self.host.ledger.reserved = max(0, self.host.ledger.reserved - freed)

    def refuse(self, guest: Guest, seq: int, reason: str) -> None:
        """Say no, and count it."""
        self.host.refused[reason] += 1
        guest.refused[reason] += 1
        guest.link.send(pack(Refused(seq, reason, _RETRY_MS.get(reason, _RETRY_OTHER))))

    def _barred(self, guest: Guest, kind: int, pool: int) -> tuple[int, str]:
        """Return the bytes that a guest may get at most, whatever there is; and why no more."""
        if kind in (PERSISTENT, EPHEMERAL):
            if pool:
                return 0, "bad-extent"
        elif pool not in guest.memberships:
            return 0, "not-granted"
        if guest.frozen:
            return 0, "frozen"
        return self.host.room(guest)

    def _decide(self, guest: Guest, ask: Lease, count: int) -> Decision:
        host = self.host
        decision = self._decision(Request(guest=guest.id, kind=ask.kind, count=count))
        if guest.balloon is None or ask.kind != PERSISTENT or decision.reason == "no-policy":
            return decision
        # Whoever was made to shrink and needs more all at once is served first, whatever it holds for its weight. What
        # is reserved for others stays: who would be made to shrink to get it could do so on purpose.
        served = min(count, lendable(host.view(), guest.view(host.unit, host.now())))
        if served <= decision.grant:
            return decision
        host.counters["valve"] += 1
        return Decision(grant=served)

    def _decision(self, request: Request | None) -> Decision:
        """Return what the policy says, if that can be done; a refusal where it cannot."""
        host, view = self.host, self.host.view()
        try:
            decision = host.policy.decide(view, request)
            wrong = policies.broken(view, request, decision)
        except Exception as error:  # noqa: BLE001 - a policy that fails costs nobody what it holds
            wrong = f"{type(error).__name__}: {error}"
        else:
            if not wrong:
                return decision
        host.counters["internal_errors"] += 1
        self._say_seldom("policy", f"policy {host.policy.name} decided what cannot be: {wrong}")
        return Decision(reason="host-full")

    def _say_seldom(self, topic: str, text: str) -> None:
        """Log what guests could make happen a thousand times a second."""
        now = self.host.now()
        if now >= self._silent_until.get(topic, 0.0):
            self._silent_until[topic] = now + _SILENT_SECONDS
            _LOG.error("%s", text)

    def _make(self, guest: Guest, count: int, kind: int, pool: int) -> list[Extent]:
        """Make and enter extents, as many as there is memory for."""
        host, made = self.host, list[Extent]()
        try:
            for _ in range(count):
                if host.ledger.free < host.unit:
                    break
                host.ledger.make_room(host.unit)
                one = self._make_one(kind)
                made.append(one)
                host.ledger.add(one, guest.id, pool)
                host.state.held(guest.key, one.inode, kind, one.bytes, guest.id)
        except (NoRoomError, OSError) as error:
            host.counters["no_memory"] += 1
            self._say_seldom("room", f"no extent can be made ({error}): the capacity is more than is left here")
        guest.changed()
        return made

    def _make_one(self, kind: int) -> Extent:
        if not self.host.left.take(self.host.unit):
            raise NoRoomError("the machine or this cgroup is almost full")
        return extent.make(self.host.unit, kind)

    # The host takes back

    def _take_back(self, decision: Decision) -> None:
        for number, count in decision.revoke:
            guest = self.host.guests[number]
            self.revoke(guest, self.host.ledger.oldest(number, count))

    def _ask_others(self, decision: Decision) -> None:
        host, now = self.host, self.host.now()
        for number, count in decision.ask:
            if (guest := host.guests.get(number)) is not None and guest.ask(count, host.unit, now):
                host.counters["asked"] += 1
        for number, ram in decision.balloon:
            if (guest := host.guests.get(number)) is not None:
                guest.inflate(ram, now)

    def revoke(self, guest: Guest, extents: list[Extent]) -> None:
        """Empty extents of a guest at once, without its help, and tell it afterwards."""
        self.host.counters["revoked"] += len(extents)
        self.end(guest, extents)
        guest.unsaid += [one.id for one in extents]
        guest.tell_revoked()

    def end(self, guest: Guest, extents: list[Extent]) -> None:
        """Empty extents of a guest, which knows or will be told."""
        self.pools.before_end(extents)
        for one in extents:
            self.host.ledger.end(one)
            self.host.state.ended(one.inode)
        self.pools.after_end(extents)
        guest.changed()

    # A guest answers

    def give(self, guest: Guest, given: Give) -> None:
        """Take extents back that a guest no longer uses. One that was taken back meanwhile is passed over."""
        ledger, extents = self.host.ledger, dict[int, Extent]()
        for number in given.ids:
            one = ledger.get(number)
            if one is not None and one.guest != guest.id:
                raise MisuseError("it gives what is not its own")
            if one is not None:
                extents[number] = one
        self.end(guest, list(extents.values()))
        self.host.counters["given"] += len(extents)
        guest.gave(sum(one.kind == PERSISTENT for one in extents.values()))
        guest.link.send(pack(Done(given.seq)))

    def shrunk(self, guest: Guest, said: Shrunk) -> None:
        """Note that a guest gave what it could."""
        if guest.shrunk(said.seq, said.bytes_given, self.host.now()):
            self._answered(guest)

    def ballooned(self, guest: Guest, _: Ballooned) -> None:
        """Note that a guest keeps less resident, or more again."""
        if guest.balloon_at:
            guest.balloon_at = 0.0
            self._answered(guest)

    def _answered(self, guest: Guest) -> None:
        guest.answered += 1
        self.host.counters["answered"] += 1

    # After a restart

    def claim(self, guest: Guest, said: Claim, fds: list[int]) -> None:
        """Enter what a guest held of the last daemon. Descriptors that are accepted are taken out of `fds`."""
        if len(fds) != len(said.ids):
            raise MisuseError(f"it claims {len(said.ids)} extents with {len(fds)} descriptors")
        _, reason = self._barred(guest, said.kind, said.pool)
        if reason in {"bad-extent", "not-granted"}:
            self.refuse(guest, said.seq, reason)
            return
        accepted = [self._claim_one(guest, said, fds, at) for at in range(len(fds))]
        fds[:] = [fd for fd in fds if fd >= 0]
        self.host.counters["claimed"] += sum(map(bool, accepted))
        guest.changed()
        guest.link.send(pack(Granted(said.seq, accepted)))
        if said.pool:
            self.pools.tell_others(said.pool, guest)

    def _claim_one(self, guest: Guest, said: Claim, fds: list[int], at: int) -> int:
        host = self.host
        try:
            inode, size = extent.inspect(fds[at], _LARGEST)
        except ExtentError as error:
            host.counters["bad_claims"] += 1
            _LOG.info("guest %d claims what is no extent: %s", guest.id, error)
            return 0
        owner, process = host.state.owner(inode), guest.peer.process
        if host.ledger.knows(inode) or (owner is not None and owner != process):
            host.counters["bad_claims"] += 1
            return 0
        kept = owner is not None and host.state.kind(inode) == said.kind
        if not kept and (guest.frozen or host.room(guest)[0] < size):
            return 0
        reserved = host.state.reserved(inode) if kept else 0
        if host.ledger.free + reserved < size:
            return 0
        host.ledger.reserved = max(0, host.ledger.reserved - reserved)
        if (was := host.state.claimed(inode)) is not None:
            guest.was.add(was)
        one = Extent(fds[at], inode, size, said.kind)
        fds[at] = -1
        host.ledger.make_room(size)
        number = host.ledger.add(one, guest.id, said.pool)
        host.ledger.took_over()
        host.state.held(guest.key, inode, said.kind, size, guest.id)
        return number

    # The clock

    def tick(self) -> None:
        """Once a second: what the policy wants of whom, and who has not answered."""
        host, now = self.host, self.host.now()
        host.read_pressure()
        host.left.look()
        for guest in host.guests.values():
            host.counters["unanswered"] += guest.overdue(now, host.config.limits.answer_seconds)
        decision = self._decision(None)
        self._take_back(decision)
        self._ask_others(decision)
        for guest in host.guests.values():
            self.hold_to_cap(guest)
        for pool in host.pools.values():
            pool.tell_behind()
        if host.ledger.over:
            self._fit()

    def hold_to_cap(self, guest: Guest) -> None:
        """Take what a guest holds beyond its cap: what can be revoked at once, the rest is asked for."""
        host, held = self.host, sum(guest.holding.bytes)
        if guest.cap is None or held <= guest.cap:
            return
        over = -(-(held - guest.cap) // host.unit)
        self.revoke(guest, host.ledger.oldest(guest.id, over))
        over = -(-(sum(guest.holding.bytes) - guest.cap) // host.unit)
        if over > 0 and guest.ask(over, host.unit, host.now()):
            host.counters["asked"] += 1

    def _fit(self) -> None:
        """Take and ask back what is held beyond a smaller capacity, first of who has most for its weight."""
        host, now = self.host, self.host.now()
        guests = sorted(host.guests.values(), key=lambda guest: -sum(guest.holding.bytes) / max(guest.weight, 1))
        for guest in guests:
            self.revoke(guest, host.ledger.oldest(guest.id, -(-host.ledger.over // host.unit)))
        left = -(-host.ledger.over // host.unit)
        for guest in guests:
            count = min(left, len(guest.holding.kinds[PERSISTENT]))
            if count and guest.ask(count, host.unit, now):
                host.counters["asked"] += 1
            left -= count

    def end_reservations(self) -> None:
        """Guests of the last daemon that have not come back by now keep what they have, and others get the rest."""
        self.host.ledger.reserved = 0
        self.host.state.end_reservations()
