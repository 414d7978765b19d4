# SPDX-License-Identifier: Apache-2.0
"""One guest: its connection, what the operator has set for it, what it told of itself, what is under way.

Owns: that record. Called by flow, pools, admin, rows. Calls the connection. Everything in it is bounded; what a guest
reports of itself is clamped, and is never used to decide whose memory something is.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec

from tmem.daemon.connection import Connection
from tmem.daemon.ledger import Holding
from tmem.daemon.peer import Peer
from tmem.policies import GuestView
from tmem.wire import MOST_IDS, Balloon, Report, Revoked, Set, Shrink, pack

__all__ = ["NOTHING", "Guest"]

NOTHING: Final = Report(*[0] * 15)
_MOST: Final = (1 << 62) - 1  # no machine has more bytes, faults or nanoseconds
_MOST_WANT: Final = 1 << 20
_DEAF_SECONDS: Final = 5.0  # who gave nothing, or did not answer, is not asked again for so long
_SILENT_SECONDS: Final = 90.0  # longer than any interval of reports
_REPORT_AGE: Final = 0.05  # seconds: reports that come faster say nothing of rates


class Guest:
    """A guest of the host, from its welcome to its end. Sizes are bytes, `want` and `asked` are extents."""

    __slots__ = (
        "_ask_at",
        "_ask_seq",
        "_rated",
        "_seq",
        "_view",
        "_wants",
        "answered",
        "asked",
        "balloon",
        "balloon_at",
        "born",
        "budget",
        "cap",
        "compress",
        "deaf_until",
        "faults_s",
        "frozen",
        "grants",
        "holding",
        "id",
        "link",
        "memberships",
        "name",
        "peer",
        "refused",
        "report",
        "report_at",
        "reservation",
        "settled",
        "stall",
        "unanswered",
        "unsaid",
        "was",
        "weight",
    )  # fmt: skip

    def __init__(self, number: int, name: str, peer: Peer, link: Connection, now: float) -> None:
        self.id, self.name, self.peer, self.link = number, name, peer, link
        self.born = now
        self.holding = Holding()
        self.weight, self.cap, self.reservation = 1, None, 0
        self.frozen, self.compress = False, True
        self.settled = False  # whether it has claimed what it had of the last daemon
        self.was: set[int] = set()  # the numbers it had there, as its claims show
        self.grants: set[str] = set()  # digests of the secrets it may join with
        self.memberships: dict[int, int] = {}  # shared pool -> its number there
        self.unsaid: list[int] = []  # extents taken back, which it was not told yet
        self.refused: Counter[str] = Counter()
        self.report, self.report_at = NOTHING, 0.0
        self._rated = (0, 0)  # faults, and nanoseconds that they took, at that time
        self.faults_s = self.stall = 0.0
        self.budget = 0  # its own RAM: the most it ever reported
        self.asked, self._ask_at, self._ask_seq, self.deaf_until = 0, 0.0, 0, 0.0
        self.answered = self.unanswered = 0  # of what it was asked
        self.balloon: int | None = None
        self.balloon_at = 0.0  # when it was told a target that it has not answered
        self._wants = (0, 0, 0)  # extents refused in this second and in the one before, and which second it is
        self._seq = 0
        self._view: GuestView | None = None

    cap: int | None

    @property
    def key(self) -> tuple[int, int, str]:
        """What tells it from others, also after a restart of either side's connection."""
        return (*self.peer.process, self.name)

    # What a policy sees

    def view(self, unit: int, now: float) -> GuestView:
        """Return the guest as a policy sees it. Kept until something changes."""
        self.want(now)  # what is forgotten by now changes the view
        if self._view is None or self._view.deaf != (now < self.deaf_until):
            self._view = self._look(unit, now)
        return self._view

    def changed(self) -> None:
        """Something of the view has changed."""
        self._view = None

    def want(self, now: float) -> int:
        """Return the extents it was refused lately, in one to two seconds, and still wants."""
        last, before, second = self._wants
        if (last or before) and (passed := int(now) - second) > 0:
            last, before = 0, last if passed == 1 else 0
            self._wants, self._view = (last, before, int(now)), None
        return last + before

    def went(self, refused: int, granted: int, now: float) -> None:
        """Note what it wanted and did not get, and what it got."""
        want = min(_MOST_WANT, max(0, self.want(now) + refused - granted))
        last = min(self._wants[0] + refused, want)
        self._wants, self._view = (last, want - last, int(now)), None

    def _look(self, unit: int, now: float) -> GuestView:
        held, report = self.holding, self.report
        return GuestView(
            id=self.id,
            name=self.name,
            uid=self.peer.uid,
            weight=self.weight,
            cap=None if self.cap is None else self.cap // unit,
            reservation=self.reservation // unit,
            frozen=self.frozen,
            persistent=-(-held.bytes[0] // unit),
            ephemeral=-(-held.ephemeral_bytes // unit),
            want=self.want(now),
            ram=report.ram,
            budget=self.budget,
            resident=report.resident + report.standby + report.store_bytes,
            idle=1.0 - report.active / report.sampled if report.sampled else 0.0,
            stall=self.stall,
            asked=min(self.asked, -(-held.bytes[0] // unit)),
            balloon=self.balloon,
            deaf=now < self.deaf_until,
        )

    # What it tells

    def take_report(self, said: Report, now: float) -> None:
        """Take what a guest says of itself, within what can be."""
        numbers: dict[str, Any] = {name: min(getattr(said, name), _MOST) for name in said.__struct_fields__}
        numbers["active"] = min(numbers["active"], numbers["sampled"])
        self.report, self._view = msgspec.structs.replace(said, **numbers), None
        if self.balloon is None:  # else it is a target of the host's
            self.budget = max(self.budget, self.report.ram)
        if self.report.faults < self._rated[0]:  # it counts anew
            self._rated = (self.report.faults, self.report.fault_ns)
        since = now - self.report_at
        if since < _REPORT_AGE:
            return  # the rates are of enough time to be some
        if self.report_at:
            faults, waited = self._rated
            self.faults_s = max(0, self.report.faults - faults) / since
            self.stall = min(1.0, max(0, self.report.fault_ns - waited) / 1e9 / since)
        self.report_at, self._rated = now, (self.report.faults, self.report.fault_ns)

    # What it is asked and told

    def ask(self, count: int, unit: int, now: float) -> bool:
        """Ask for persistent extents back, one question at a time; return whether it was asked now."""
        if self._ask_at or now < self.deaf_until:
            return False
        self._seq += 1
        self._ask_seq, self._ask_at = self._seq, now
        self.asked, self._view = count, None
        self.link.send(pack(Shrink(self._seq, count * unit)), latest="shrink")
        return True

    def gave(self, count: int) -> None:
        """Note that it gave persistent extents back, asked or not."""
        self.asked = max(0, self.asked - count)
        if count:
            self.deaf_until = 0.0
        self._view = None

    def shrunk(self, seq: int, given: int, now: float) -> bool:
        """Note that it gave what it could; return whether this answers what it was asked."""
        if not self._ask_at or seq != self._ask_seq:
            return False
        if not given:
            self.deaf_until = now + _DEAF_SECONDS
        self._ask_at, self.asked, self._view = 0.0, 0, None
        return True

    def inflate(self, ram: int, now: float) -> None:
        """Set the target of what it keeps resident; 0 is its own budget."""
        target = ram or None
        if target == self.balloon:
            return
        self._seq += 1
        self.balloon, self.balloon_at, self._view = target, now, None
        self.link.send(pack(Balloon(self._seq, min(ram, _MOST))), latest="balloon")

    def overdue(self, now: float, seconds: float) -> int:
        """Give up on what it was asked and did not answer in time; return how many questions that were.

        Of who has long said nothing the rates are not known: they are none.
        """
        count = 0
        if now - self.report_at > _SILENT_SECONDS:
            self.faults_s = self.stall = 0.0
        if self._ask_at and now - self._ask_at > seconds:
            self._ask_at, self.asked, self._view = 0.0, 0, None
            count += 1
        if self.balloon_at and now - self.balloon_at > seconds:
            self.balloon_at = 0.0
            count += 1
        if count:
            self.deaf_until = now + _DEAF_SECONDS
            self.unanswered += count
        return count

    def tell_set(self) -> None:
        """Tell it what the operator has set."""
        self._view = None
        self.link.send(pack(Set(self.frozen, self.compress)), latest="set")

    def tell_revoked(self) -> None:
        """Tell it which extents are empty, as far as it listens; the rest when it does."""
        while self.unsaid and not self.link.congested:
            some, self.unsaid = self.unsaid[:MOST_IDS], self.unsaid[MOST_IDS:]
            self.link.send(pack(Revoked(some)))
