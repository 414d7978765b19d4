# SPDX-License-Identifier: Apache-2.0
"""The administrator's verbs, their arguments, whom they are about, and who may ask."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.host.daemonthread import ThreadDaemon
from tests.hostguest import RawAdmin
from tmem import wire
from tmem.daemon import admin as admins
from tmem.daemon import peer

MIB = 1 << 20


def test_list_tells_all_that_there_is(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("one") as one, daemon.guest("two"):
        assert one.lease(3) == 3
        assert one.lease(1, kind=1) == 1
        found = daemon.ask("list", guest=None, long=True)
        host = found["host"]
        assert (host["version"], host["policy"], host["guests"], host["pools"]) == (1, "weighted", 2, 0)
        assert (host["capacity"], host["extent_bytes"], host["leased_bytes"]) == (64 * MIB, MIB, 4 * MIB)
        assert (host["free_bytes"], host["freeable_bytes"]) == (60 * MIB, MIB)
        wanted = {"leases", "granted", "refused", "revoked", "given", "claimed", "deaths", "malformed", "rate_limited"}
        assert wanted <= set(host["counters"])
        row = found["guests"][0]
        assert (row["id"], row["name"], row["pid"], row["uid"]) == (1, "one", os.getpid(), os.geteuid())
        assert (row["persistent_bytes"], row["ephemeral_bytes"], row["shared_bytes"]) == (3 * MIB, MIB, 0)
        assert (row["weight"], row["cap"], row["share_bytes"], row["frozen"]) == (1, None, 32 * MIB, False)
        assert 0 <= row["connected"] < 60
        assert daemon.ask("freeable") == {"bytes": MIB}
        assert daemon.ask("ping")["version"] == 1
        assert daemon.ask("check") == {"broken": [], "blocks": 4 * MIB}


def test_guests_are_meant_by_id_name_process_and_user(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("one"), daemon.guest("two"), daemon.guest("two"):
        pid, uid = os.getpid(), os.geteuid()
        everybody = [1, 2, 3]
        named = {"1": [1], 2: [2], "one": [1], "two": [2, 3], None: everybody}
        for who, ids in (named | {f"pid:{pid}": everybody, f"user:{uid}": everybody}).items():
            assert [row["id"] for row in daemon.ask("list", guest=who)["guests"]] == ids
        for nobody in ("three", "9", "pid:1", "user:12345", "user:no-such-user", ""):
            with pytest.raises(ValueError, match=r"no guest|no user"):
                daemon.ask("list", guest=nobody)
        for verb, more in (("destroy", {}), ("shared-auth", {"secret": "0" * 32, "allow": True})):
            with pytest.raises(ValueError, match="give an id"):
                daemon.ask(verb, guest="two", **more)
            with pytest.raises(ValueError, match="needs a guest"):
                daemon.ask(verb, **more)


def test_set_changes_what_is_named_and_keeps_the_rest(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("one") as one:
        assert daemon.ask("set", guest="one", weight=4, cap=2 * MIB, reservation=MIB) == {"guests": [1]}
        assert daemon.ask("set", guest="one", compress=False) == {"guests": [1]}
        assert one.wait_for(wire.Set) == wire.Set(frozen=False, compress=False)
        (row,) = daemon.ask("list")["guests"]
        assert (row["weight"], row["cap"], row["reservation"], row["compress"]) == (4, 2 * MIB, MIB, False)
        assert one.lease(5) == 2
        daemon.ask("set", guest=None, cap="none")
        assert one.lease(5) == 5
        daemon.ask("set", guest="one", cap=0)
        assert (one.lease(1), one.refused) == (0, "over-cap")


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("nothing", {}), ("list", {"gest": "x"}), ("list", {"guest": [1]}), ("set", {"guest": "one"}),
        ("set", {"guest": "one", "weight": -1}), ("set", {"guest": "one", "weight": "2"}),
        ("set", {"guest": "one", "cap": "some"}), ("set", {"guest": "one", "cap": -1}), ("balloon", {"guest": "one"}),
        ("shared-auth", {"guest": "one", "secret": "0" * 31, "allow": True}), ("ping", {"x": 1}),
        ("shared-auth", {"guest": "one", "secret": "g" * 32, "allow": True}), ("destroy", {"guest": "one", "force": 1}),
    ],
)  # fmt: skip
def test_bad_questions_are_answered_and_do_nothing(tmp_path: Path, verb: str, arguments: dict[str, Any]) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("one"):
        before = daemon.ask("list")["guests"][0]
        with daemon.admin() as admin:
            with pytest.raises(ValueError, match=r"\w"):
                admin.ask(verb, **arguments)
            after = admin.ask("list")["guests"][0]
        assert {**before, "connected": 0} == {**after, "connected": 0}


def test_destroy_says_what_it_would_end_and_does_it_when_forced(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest("one") as one, daemon.guest("two") as two:
        assert one.lease(2) == 2
        assert two.lease(2, kind=1) == 2
        with pytest.raises(ValueError, match="force"):
            daemon.ask("destroy", guest="one")
        assert daemon.ask("destroy", guest="two") == {"guest": 2, "bytes": 2 * MIB}
        with pytest.raises(ConnectionError, match="administrator"):
            two.answer(99)
        assert daemon.ask("destroy", guest="one", force=True) == {"guest": 1, "bytes": 2 * MIB}
        daemon.wait_until(lambda: not daemon.host.ledger.taken)
        assert [os.fstat(fd).st_blocks for fd in one.held.values()] == [0, 0]


def test_the_socket_is_the_administrators_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        assert stat.S_IMODE(Path(f"{daemon.path}.admin").stat().st_mode) == 0o600
        assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o666

        def another(_: socket.socket) -> tuple[int, int, int]:
            return os.getpid(), 54321, 54321

        monkeypatch.setattr(peer, "credentials", another)
        with RawAdmin(daemon.path) as admin:
            word, text = wire.unpack_answer(admin.socket.recv(65536))
            assert word == "error"
            assert "54321" in str(text)


def test_what_is_no_question_is_answered_too(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.admin() as admin:
        for packet in (b"\xc1", b"x" * 70_000, wire.pack(wire.Hello(1, "x"))):
            admin.socket.send(packet)
            assert wire.unpack_answer(admin.socket.recv(65536))[0] == "failed"
        assert admin.ask("ping")


def test_a_long_list_comes_whole_or_without_its_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[[guest]]\nname = "light"\nweight = 0\n'
    with ThreadDaemon(tmp_path, text) as daemon, ExitStack() as guests:
        for name in ["x" * 60] * 150 + ["light"]:
            guests.enter_context(daemon.guest(name))
        assert len(daemon.ask("list")["guests"]) == 151  # more than 64 KiB
        monkeypatch.setattr(admins, "_ANSWER_ROOM", 28_000)
        with daemon.admin() as admin:
            for _ in range(2):
                rows = admin.ask("list")["guests"]
                assert len(rows) == 151
                assert rows[-1]["weight"] == 0
                assert "swap_bytes" not in rows[0]


def test_a_lower_cap_holds_at_once_for_what_can_be_revoked_and_the_rest_is_asked_for(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, daemon.guest() as guest:
        assert guest.lease(4, kind=1) == 4
        assert guest.lease(3) == 3
        daemon.ask("set", guest="raw", cap=2 * MIB)
        assert daemon.ask("list")["guests"][0]["ephemeral_bytes"] == 0
        assert guest.wait_for(wire.Shrink).bytes == MIB
        assert len(guest.wait_for(wire.Revoked).ids) == 4
        assert (guest.lease(1), guest.refused) == (0, "over-cap")
