# SPDX-License-Identifier: Apache-2.0
"""The daemon through its socket: leases, ends of guests, what is taken back, and who is thrown out."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from tests.host.daemonthread import ThreadDaemon
from tests.hostguest import RawGuest
from tmem import wire
from tmem.daemon.config import parse
from tmem.daemon.main import DaemonError
from tmem.policies import Decision, HostView, Request

MIB = 1 << 20


class Told:
    """A policy that does what the test says: requests and ticks are answered from two lists, then by `free`."""

    name: ClassVar[str] = "told"

    def __init__(self, *requests: Decision, ticks: tuple[Decision, ...] = ()) -> None:
        self.requests, self.ticks = list(requests), list(ticks)
        self.views: list[HostView] = []

    def decide(self, view: HostView, request: Request | None) -> Decision:
        self.views.append(view)
        if request is None:
            return self.ticks.pop(0) if self.ticks else Decision()
        if self.requests:
            return self.requests.pop(0)
        grant = min(request.count, view.free)
        return Decision(grant=grant, reason="" if grant else "host-full")


def row_of(daemon: ThreadDaemon, guest: RawGuest) -> dict[str, Any]:
    assert guest.welcome is not None
    (row,) = daemon.ask("list", guest=str(guest.welcome.guest_id))["guests"]
    found: dict[str, Any] = row
    return found


def test_extents_are_granted_used_and_given_back(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as guest:
        assert guest.welcome is not None
        assert (guest.welcome.extent_bytes, guest.welcome.most_bytes) == (MIB, 64 * MIB)
        assert guest.lease(3) == 3
        assert guest.lease(2, kind=1) == 2
        ids, fds = guest.extents()
        for fd in fds:
            assert os.fstat(fd).st_size == os.fstat(fd).st_blocks * 512 == MIB
            assert os.pwrite(fd, b"page" * 1024, MIB - 4096) == 4096
        assert (row_of(daemon, guest)["persistent_bytes"], row_of(daemon, guest)["ephemeral_bytes"]) == (
            3 * MIB,
            2 * MIB,
        )
        kept = os.dup(fds[0])
        guest.give(ids)
        assert os.fstat(kept).st_blocks == 0
        os.close(kept)
        host = daemon.ask("list")["host"]
        assert (host["leased_bytes"], host["free_bytes"], host["counters"]["given"]) == (0, 64 * MIB, 5)


def test_the_capacity_is_never_passed_and_the_rest_is_refused(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, capacity="8M", policy=Told()) as daemon, daemon.guest() as guest:
        assert guest.lease(32) == 8
        assert guest.lease(1) == 0
        assert guest.refused == "host-full"
        row = row_of(daemon, guest)
        assert row["want_bytes"] == 8 * MIB  # it asked for 25 more than it got, which is more than there is
        assert row["refused"] == {"host-full": 1}


def test_a_policy_that_breaks_a_law_is_counted_and_refused(tmp_path: Path) -> None:
    policy = Told(Decision(grant=9), Decision(revoke=((77, 1),), grant=1), Decision(), ticks=(Decision(grant=1),))
    with ThreadDaemon(tmp_path, capacity="8M", policy=policy) as daemon, daemon.guest() as guest:
        for _ in range(3):
            assert guest.lease(9) == 0
            assert guest.refused == "host-full"
        daemon.wait_until(lambda: not policy.ticks)
        assert daemon.ask("list")["host"]["counters"]["internal_errors"] == 4
        daemon.call(daemon.host.counters.clear)


def test_caps_quotas_and_freezing_hold_whatever_the_policy_says(tmp_path: Path) -> None:
    text = '[[guest]]\nname = "capped"\ncap = "2M"\nweight = 3\n[limits]\nextents_per_guest = 4\n'
    with (
        ThreadDaemon(tmp_path, text, policy=Told()) as daemon,
        daemon.guest("capped") as capped,
        daemon.guest("free") as free,
    ):
        assert capped.lease(5) == 2
        assert (capped.lease(1), capped.refused) == (0, "over-cap")
        assert free.lease(5) == 4
        assert (free.lease(1), free.refused) == (0, "quota")
        daemon.ask("set", guest="capped", cap="none")
        daemon.ask("freeze", guest="capped")
        assert capped.wait_for(wire.Set) == wire.Set(frozen=True, compress=True)
        assert (capped.lease(1), capped.refused) == (0, "frozen")
        daemon.ask("thaw", guest=None)
        assert capped.lease(1) == 1
        assert (capped.lease(1, kind=2, pool=5), capped.refused) == (0, "not-granted")
        assert (capped.lease(1, kind=0, pool=5), capped.refused) == (0, "bad-extent")


def test_one_users_guests_together_have_a_quota(tmp_path: Path) -> None:
    with (
        ThreadDaemon(tmp_path, '[limits]\nuser_bytes = "25%"\n') as daemon,
        daemon.guest() as one,
        daemon.guest() as two,
    ):
        assert one.welcome is not None
        assert one.welcome.most_bytes == 16 * MIB
        assert one.lease(10) == 10
        assert two.lease(10) == 6
        assert (two.lease(1), two.refused) == (0, "quota")


def test_a_hang_up_frees_all_even_what_others_have_descriptors_of(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        with daemon.guest() as guest:
            assert guest.lease(32) == 32
            assert guest.lease(8, kind=1) == 8
            copies = [os.dup(fd) for fd in guest.held.values()]
        daemon.wait_until(lambda: not daemon.host.guests and not daemon.host.ledger.taken)
        assert [os.fstat(fd).st_blocks for fd in copies] == [0] * 40
        for fd in copies:
            os.close(fd)


CHILD_HOLDS_ON = """
import os, sys
from tests.hostguest import RawGuest
guest = RawGuest(sys.argv[1])
assert guest.lease(4) == 4
if os.fork() == 0:  # it has the socket and the extents, and stays
    os.write(1, b"child %d\\n" % os.getpid())
    os.read(0, 1)
    os._exit(0)
os.read(0, 1)
"""


def test_a_killed_process_frees_all_while_its_child_holds_socket_and_extents(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    with ThreadDaemon(tmp_path) as daemon:
        command = [sys.executable, "-c", CHILD_HOLDS_ON, str(daemon.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline().split()[1])
            assert daemon.ask("list")["host"]["leased_bytes"] == 4 * MIB
            process.kill()
            daemon.wait_until(lambda: not daemon.host.guests and not daemon.host.ledger.taken)
            extents = [fd for fd in Path(f"/proc/{child}/fd").iterdir() if "tmem-extent" in str(fd.readlink())]
            assert [fd.stat().st_blocks for fd in extents] == [0] * 4


def test_ephemeral_memory_is_taken_before_a_grant_without_its_guests_help(tmp_path: Path) -> None:
    policy = Told(Decision(grant=4), Decision(grant=2), Decision(revoke=((1, 3),), grant=3))
    with (
        ThreadDaemon(tmp_path, capacity="6M", policy=policy) as daemon,
        daemon.guest("sleeper") as sleeper,
        daemon.guest("needy") as needy,
    ):
        assert sleeper.lease(4, kind=1) == 4
        fds = list(sleeper.held.items())
        assert needy.lease(2) == 2
        assert needy.lease(3) == 3  # the sleeper has read nothing so far
        assert [os.fstat(fd).st_blocks for _, fd in fds] == [0, 0, 0, MIB // 512]
        assert sleeper.wait_for(wire.Revoked).ids == [number for number, _ in fds[:3]]
        sleeper.give([fds[0][0], fds[3][0]])  # crossing: the first is gone already
        assert daemon.ask("list")["host"]["counters"]["revoked"] == 3


def test_who_is_asked_to_shrink_answers_or_is_counted(tmp_path: Path) -> None:
    ask = Decision(reason="host-full", ask=((1, 2),))
    policy = Told(Decision(grant=4), ask, ask, ask)
    with (
        ThreadDaemon(tmp_path, "[limits]\nanswer_seconds = 0.2\n", policy=policy) as daemon,
        daemon.guest("holder") as holder,
        daemon.guest("needy") as needy,
    ):
        assert holder.lease(4) == 4
        assert needy.lease(2) == 0
        shrink = holder.wait_for(wire.Shrink)
        assert shrink.bytes == 2 * MIB
        assert row_of(daemon, holder)["asked_bytes"] == 2 * MIB
        assert needy.lease(2) == 0  # while one question is open, no other is asked
        holder.give(list(holder.held)[:2])
        assert row_of(daemon, holder)["asked_bytes"] == 0
        holder.send(wire.Shrunk(shrink.seq + 5, 0))  # answers nothing
        holder.send(wire.Shrunk(shrink.seq, 2 * MIB))
        daemon.wait_until(lambda: daemon.host.counters["answered"] == 1)
        assert needy.lease(2) == 0
        assert holder.wait_for(wire.Shrink).seq == shrink.seq + 1
        daemon.wait_until(lambda: daemon.host.counters["unanswered"] == 1)
        assert daemon.call(lambda: daemon.host.guests[1].asked) == 0
        assert daemon.call(daemon.host.view).guests[0].deaf  # and left alone for a while
        assert (row_of(daemon, holder)["answered"], row_of(daemon, holder)["unanswered"]) == (1, 1)


def test_a_policy_or_a_step_of_ours_that_fails_costs_nobody_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Told):
        def decide(self, view: HostView, request: Request | None) -> Decision:
            if request is not None and request.count == 13:
                raise KeyError(13)
            return super().decide(view, request)

    def fails(*_: object) -> None:
        raise RuntimeError

    with ThreadDaemon(tmp_path, policy=Failing()) as daemon, daemon.guest() as guest:
        assert guest.lease(2) == 2
        assert (guest.lease(13), guest.refused) == (0, "host-full")
        monkeypatch.setattr(daemon.daemon.server.flow, "_make", fails)
        assert (guest.lease(1), guest.refused) == (0, "busy")
        monkeypatch.undo()
        assert guest.lease(1) == 1
        monkeypatch.setattr(daemon.daemon.server, "_enter", fails)
        with pytest.raises(ConnectionError, match="see its log"):
            daemon.guest()
        assert daemon.ask("list")["host"]["counters"]["internal_errors"] == 3
        daemon.call(daemon.host.counters.clear)


def test_a_smaller_capacity_is_reached_by_taking_and_by_asking(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, capacity="16M", policy=Told()) as daemon, daemon.guest() as guest:
        assert guest.lease(6) == 6
        assert guest.lease(6, kind=1) == 6
        smaller = parse("", told={"capacity": "4M", "extent": "1M"})
        daemon.call(lambda: daemon.host.reload(smaller))
        assert len(guest.wait_for(wire.Revoked).ids) == 6
        shrink = guest.wait_for(wire.Shrink)
        assert shrink.bytes == 2 * MIB
        assert (guest.lease(1), guest.refused) == (0, "host-full")
        guest.give(list(guest.held)[:2])
        guest.send(wire.Shrunk(shrink.seq, 2 * MIB))
        daemon.wait_until(lambda: not daemon.host.ledger.over)


def test_descriptors_are_kept_for_guests_that_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256 + 2 + 5, 4096))
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as guest:
        assert guest.lease(9) == 5
        assert (guest.lease(1), guest.refused) == (0, "host-full")


def test_a_ballooned_guest_is_served_first_from_what_is_free(tmp_path: Path) -> None:
    nothing = Decision(reason="host-full")
    policy = Told(nothing, nothing, nothing)
    with ThreadDaemon(tmp_path, policy=policy) as daemon, daemon.guest() as guest:
        assert (guest.lease(4), guest.refused) == (0, "host-full")
        daemon.ask("balloon", guest="raw", bytes=32 * MIB)
        balloon = guest.wait_for(wire.Balloon)
        assert balloon.ram_bytes == 32 * MIB
        assert guest.lease(4) == 4
        guest.send(wire.Ballooned(balloon.seq, 32 * MIB))
        daemon.wait_until(lambda: daemon.host.counters["answered"] == 1)
        assert row_of(daemon, guest)["balloon"] == 32 * MIB
        daemon.ask("balloon", guest="raw", bytes=0)
        assert guest.wait_for(wire.Balloon).ram_bytes == 0
        assert (guest.lease(4), guest.refused) == (0, "host-full")


def test_a_ballooned_guest_is_not_served_from_what_is_reserved_for_another(tmp_path: Path) -> None:
    text = '[[guest]]\nname = "other"\nreservation = "48M"\n'
    with ThreadDaemon(tmp_path, text) as daemon, daemon.guest("other") as other, daemon.guest() as guest:
        daemon.ask("balloon", guest="raw", bytes=32 * MIB)
        assert guest.lease(32) == 16
        assert guest.lease(32) == 0
        assert other.lease(32) + other.lease(32) == 48


def test_reports_are_clamped_and_become_rates(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as guest:
        huge = wire.Report(*[2**64 - 1] * 15)
        guest.send(huge)
        daemon.wait_until(lambda: daemon.host.guests[1].report.ram > 0)
        assert daemon.call(lambda: daemon.host.guests[1].report.ram) == 2**62 - 1
        first = wire.Report(*[MIB, *[0] * 12, 100, 25])
        guest.send(first)
        time.sleep(0.1)
        guest.send(msgspec.structs.replace(first, faults=1000, fault_ns=50_000_000))
        daemon.wait_until(lambda: daemon.host.guests[1].report.faults == 1000)
        row = row_of(daemon, guest)
        assert row["faults_s"] > 100
        assert 0 < row["stall"] <= 0.5
        assert daemon.call(lambda: daemon.host.view().guests[0].idle) == 0.75


MALFORMED = {
    "no message": b"\xc1",
    "unknown": msgspec.msgpack.encode(["what", 1]),
    "arity": msgspec.msgpack.encode(["lease", 1, 0, 0]),
    "from a host": wire.pack(wire.Done(1)),
    "second hello": wire.pack(wire.Hello(1, "again")),
    "too long": bytes(wire.LONGEST + 1),
}


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED)
def test_malformed_messages_are_told_and_end_the_connection(tmp_path: Path, packet: bytes) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as other:
        with daemon.guest() as guest:
            assert guest.lease(2) == 2
            guest.send_raw(packet)
            with pytest.raises(ConnectionError, match="malformed"):
                guest.answer(99)
            with pytest.raises(ConnectionError):
                guest.recv()
        assert daemon.ask("list")["host"]["counters"]["malformed"] == 1
        assert other.lease(1) == 1


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (wire.Lease(1, 0, 0, 1), "hello"),
        (wire.Hello(2, "x"), "version 2"),
        (wire.Hello(1, "a\nb"), "printable"),
        (wire.Hello(1, "\N{GRINNING FACE}" * 20), "63 bytes"),
    ],
)
def test_a_wrong_beginning_is_told(tmp_path: Path, first: Any, why: str) -> None:
    with ThreadDaemon(tmp_path) as daemon, RawGuest(daemon.path, None) as guest:
        guest.send(first)
        message, _ = guest.recv()
        assert isinstance(message, wire.Error)
        assert why in message.text


def test_descriptors_that_nobody_asked_for_are_closed(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for message in (wire.Lease(1, 0, 0, 1), wire.Claim(1, 0, 0, [1])):
            with daemon.guest() as guest:
                guest.send(message, [0, 1, 2])
                with pytest.raises(ConnectionError, match="descriptors"):
                    guest.answer(1)
        with daemon.guest() as guest:  # 33: more than a packet may have
            guest.send(wire.Claim(1, 0, 0, list(range(32))), [0] * 33)
            with pytest.raises(ConnectionError, match="more than"):
                guest.answer(1)
        daemon.wait_until(lambda: not daemon.host.guests)
        daemon.wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) == before, "all to be closed")


def test_giving_what_is_anothers_is_misuse(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as owner, daemon.guest() as thief:
        assert owner.lease(1) == 1
        thief.give([1, 2**64 - 1])  # nobody's: passed over
        with pytest.raises(ConnectionError, match="not its own"):
            thief.give(list(owner.held))
        assert os.fstat(next(iter(owner.held.values()))).st_blocks > 0


def test_a_flood_is_refused_and_then_read_more_slowly(tmp_path: Path) -> None:
    text = "[limits]\nmessage_rate = 50\nmessage_burst = 20\n"
    with ThreadDaemon(tmp_path, text) as daemon, daemon.guest("flood") as flood, daemon.guest("calm") as calm:
        for seq in range(60):
            flood.send(wire.Lease(seq, 0, 9, 1))
        reasons = [flood.answer(seq)[0].reason for seq in range(30)]
        assert reasons[:15] == ["bad-extent"] * 15
        assert reasons[25:] == ["busy"] * 5
        begin = time.monotonic()
        assert calm.lease(1) == 1
        assert time.monotonic() - begin < 0.5
        flood.answer(59)  # all are answered in the end, at the rate
        assert time.monotonic() - begin > 0.1
        assert daemon.ask("list")["host"]["counters"]["rate_limited"] > 0


def send_until_full(guest: RawGuest) -> int:
    for seq in range(100, 20_000):
        try:
            guest.send(wire.Lease(seq, 0, 9, 1))
        except TimeoutError:
            return seq - 100
    raise AssertionError("nothing holds it up")


def test_who_reads_nothing_is_not_read_either_and_loses_nothing(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("slow") as slow, daemon.guest() as other:
        assert slow.lease(2) == 2
        slow.socket.settimeout(0.2)
        sent = send_until_full(slow)
        assert daemon.call(lambda: daemon.host.guests[1].link.waiting) <= 64
        assert other.lease(1) == 1
        slow.socket.settimeout(5)
        assert all(slow.answer(seq) for seq in range(100, 100 + sent))
        assert slow.lease(1) == 1


def test_a_full_queue_that_nobody_takes_from_ends_the_connection(tmp_path: Path) -> None:
    text = "[limits]\nqueue = 16\nidle_reader_seconds = 0.05\n"
    with ThreadDaemon(tmp_path, text) as daemon, daemon.guest("slow"):
        link = daemon.call(lambda: daemon.host.guests[1].link)

        def fill() -> None:
            for _ in range(2000):
                link.send(wire.pack(wire.Done(1)))

        daemon.call(lambda: link.send(b"x" * 1000))
        daemon.call(fill)
        assert daemon.call(lambda: link.waiting) <= 4 * 16 + 1
        daemon.wait_until(lambda: not daemon.host.guests)


def test_limits_of_guests_are_told(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, "[limits]\nguests = 3\nguests_per_user = 2\n") as daemon:
        with daemon.guest(), daemon.guest(), pytest.raises(ConnectionError, match="all one user may have"):
            daemon.guest()
        daemon.wait_until(lambda: not daemon.host.guests)
        with daemon.guest():
            assert daemon.ask("list")["host"]["counters"]["turned_away"] == 1


def test_two_daemons_never_share_a_socket_and_a_dead_ones_is_replaced(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        with pytest.raises(DaemonError, match="already"):
            ThreadDaemon(tmp_path).start()
        with daemon.guest() as guest:
            assert guest.lease(1) == 1
    assert not daemon.path.exists()
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(daemon.path))
    left.close()
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as guest:
        assert guest.lease(1) == 1
    (tmp_path / "host.sock").write_text("a file")
    with pytest.raises(DaemonError, match="no socket"):
        ThreadDaemon(tmp_path).start()
