# SPDX-License-Identifier: Apache-2.0
"""The operator's verbs and top against a real daemon with guests: what they say is done."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.daemonthread import ThreadDaemon
from tmem import wire
from tmem.cli import main as cli
from tmem.operator import Operator, Overview

MIB = 1 << 20
EPHEMERAL = 1
SECRET = bytes(range(16))
Tmem = Callable[..., str]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ThreadDaemon]:
    with ThreadDaemon(tmp_path) as made:
        yield made


@pytest.fixture
def tmem(daemon: ThreadDaemon, capsys: pytest.CaptureFixture[str]) -> Tmem:
    """Run a verb against the daemon; return what it printed. It ends with the exit code `code`."""

    def run(line: str, code: int = 0) -> str:
        verb, *rest = line.split()
        assert cli.main([verb, "--socket", str(daemon.path), *rest]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return run


def _seen(daemon: ThreadDaemon, guest: str | None = None) -> Overview:
    with Operator(str(daemon.path)) as operator:
        return operator.list(guest, long=True)


def test_each_field_that_the_client_knows_is_told_by_the_daemon(daemon: ThreadDaemon) -> None:
    with daemon.guest("web") as guest:
        guest.lease(2)
        with Operator(str(daemon.path)) as operator:
            answer = operator.ask("list", guest=None, long=True)
        seen = _seen(daemon)
        for row, said in ((seen.host, answer["host"]), (seen.guests[0], answer["guests"][0])):
            assert set(row.__struct_fields__) - set(said) == set()
        assert (seen.host.leased_bytes, seen.guests[0].lease_bytes) == (2 * MIB, 2 * MIB)


def test_freeze_freeable_thaw(daemon: ThreadDaemon, tmem: Tmem) -> None:
    with daemon.guest("web") as guest:
        assert guest.lease(3, EPHEMERAL) == 3
        assert tmem("freeze web").startswith("frozen: 1 guest")
        assert guest.lease(1) == 0
        assert guest.refused == "frozen"
        assert "frozen" in tmem("list web")
        assert tmem("freeable") == "3.0 MiB\n"
        tmem("thaw -a")
        assert guest.lease(1) == 1


def test_set_is_seen_and_held(daemon: ThreadDaemon, tmem: Tmem) -> None:
    with daemon.guest("web") as guest:
        tmem("set web --weight 5 --cap 2M --reservation 1M --compress off")
        row = _seen(daemon, "web").guests[0]
        assert (row.weight, row.cap, row.reservation, row.compress) == (5, 2 * MIB, MIB, False)
        assert guest.lease(3) == 2
        assert guest.lease(1) == 0
        assert guest.refused == "over-cap"
        tmem("set web -c none -r none")
        assert guest.lease(1) == 1
        row = _seen(daemon, "web").guests[0]
        assert (row.cap, row.reservation, row.weight) == (None, 0, 5)
        assert row.refused == {"over-cap": 1}


def test_shared_auth_lets_a_guest_join(daemon: ThreadDaemon, tmem: Tmem) -> None:
    with daemon.guest("web") as guest:

        def join() -> object:
            seq = guest.next_seq()
            guest.send(wire.Join(seq, SECRET))
            return guest.answer(seq)[0]

        assert isinstance(join(), wire.Refused)
        said = tmem(f"shared-auth web -u {SECRET.hex()} -A 1")
        assert f"(web, process {os.getpid()} of " in said, "a name alone may be anybody's"
        assert isinstance(join(), wire.Joined)
        assert f"members       {_seen(daemon).guests[0].id}\n" in tmem("list -l")
        tmem(f"shared-auth web -u {SECRET.hex()} -A 0")
        assert _seen(daemon).pools in ((), ({"id": 1, "members": [], "extents": 0, "bytes": 0},))


def test_balloon_asks_the_guest(daemon: ThreadDaemon, tmem: Tmem) -> None:
    with daemon.guest("batch") as guest:
        tmem("balloon batch 32M")
        assert guest.wait_for(wire.Balloon).ram_bytes == 32 * MIB
        assert _seen(daemon).guests[0].balloon == 32 * MIB
        tmem("balloon batch off")
        assert guest.wait_for(wire.Balloon).ram_bytes == 0


def test_destroy_takes_all_and_persistent_memory_only_by_force(daemon: ThreadDaemon, tmem: Tmem) -> None:
    with daemon.guest("batch") as guest:
        guest.lease(2)
        assert "cannot do without" in tmem("destroy batch", 125)
        assert _seen(daemon).host.leased_bytes == 2 * MIB
        assert "2.0 MiB are the host's again; its program stops" in tmem("destroy batch --force")
        assert _seen(daemon).host.leased_bytes == 0
    assert "tmem list" in tmem("destroy batch", 125)


def test_top_once_has_the_guests(daemon: ThreadDaemon, tmem: Tmem) -> None:
    with daemon.guest("web") as guest, daemon.guest("db"):
        guest.lease(4)
        document = json.loads(tmem("top --once --json --interval 0.1"))
    assert [row["name"] for row in document["guests"]] == ["web", "db"]
    assert document["host"]["counters"]["granted"] == 4


def test_a_hundred_guests_are_listed(daemon: ThreadDaemon) -> None:
    guests = [daemon.guest(f"guest-{number}") for number in range(100)]
    try:
        assert len(_seen(daemon).guests) == 100
    finally:
        for guest in guests:
            guest.close()


def test_top_ends_a_guest(daemon: ThreadDaemon) -> None:
    pytest.importorskip("textual")
    from tmem.top.app import TopApp  # noqa: PLC0415 - needs textual
    from tmem.top.feed import Feed  # noqa: PLC0415

    async def look() -> None:
        app = TopApp(Feed(str(daemon.path)), interval=0.1)
        async with app.run_test(size=(80, 24)) as pilot:
            for keys in (("f",), ("t",), ("k", "y")):
                await pilot.pause(0.5)
                await pilot.press(*keys)
            await pilot.pause(0.5)

    with daemon.guest("web") as guest:
        guest.lease(2)
        asyncio.run(look())
        assert [said.frozen for said in guest.said if isinstance(said, wire.Set)] == []
        with pytest.raises(ConnectionError):
            guest.listen(1)
        assert [said.frozen for said in guest.said if isinstance(said, wire.Set)] == [True, False]
    assert _seen(daemon).host.leased_bytes == 0
