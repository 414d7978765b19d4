# SPDX-License-Identifier: Apache-2.0
"""The operator's client: what it asks, what it makes of answers, and what it says when there are none."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.host.operatorserver import MIB, OperatorServer
from tmem import hostpath, operator
from tmem.errors import TmemError
from tmem.operator import HostAwayError, Operator, admin_path, overview_of


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OperatorServer]:
    with OperatorServer(tmp_path / "t.sock") as made:
        yield made


def test_the_rows_have_what_the_daemon_said(server: OperatorServer) -> None:
    with Operator(str(server.path)) as asked:
        seen = asked.list()
        assert [guest.name for guest in seen.guests] == ["train", "web", "batch"]
        train = seen.guests[0]
        assert (train.lease_bytes, train.stored_bytes) == (448 * MIB, 100 * MIB)
        assert train.refused == {"host-full": 3, "over-cap": 1}
        assert seen.host.refused == {"host-full": 3}
        assert asked.list("user:bob", long=True).guests[0].owner == "bob"
    assert server.asked == [
        ("list", {"guest": None, "long": False}),
        ("list", {"guest": "user:bob", "long": True}),
    ]


def test_fields_of_a_newer_daemon_are_passed_over_and_missing_ones_have_defaults() -> None:
    seen = overview_of(
        {"host": {"policy": "stall", "new": [1]}, "guests": [{"id": 1, "uid": 7, "cap": None}], "more": 1}
    )
    assert seen.guests[0].owner == "7"
    assert seen.host.refused == {}


def test_a_refused_question_is_an_error_with_the_daemons_words(server: OperatorServer) -> None:
    with Operator(str(server.path)) as asked:
        with pytest.raises(TmemError, match="no guest is 'x'"):
            asked.ask("freeze", guest="x")
        assert len(asked.list().guests) == 3  # and the connection is as good as before


@pytest.mark.parametrize(
    "raw",
    [b"\xc1", msgspec.msgpack.encode(["what", 1]), msgspec.msgpack.encode(["ok", 1, 2]), msgspec.msgpack.encode("ok"),
     msgspec.msgpack.encode(["ok", {"guests": [{"id": "x"}]}])],
)  # fmt: skip
def test_an_answer_of_another_version_is_told(server: OperatorServer, raw: bytes) -> None:
    server.raw = raw
    with Operator(str(server.path)) as asked:
        with pytest.raises(
            TmemError, match=r"answers in a way that this tmem does not know.*use the tmem it runs with"
        ):
            asked.list()
        server.raw = None
        assert asked.list().guests  # the next question begins anew


def test_an_answer_may_be_larger_than_a_message_of_a_guest(server: OperatorServer) -> None:
    server.known["guests"] = [dict(server.known["guests"][0], id=number) for number in range(120)]
    with Operator(str(server.path)) as asked:
        assert len(asked.list().guests) == 120


def test_no_daemon_is_told_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Operator(str(tmp_path / "none")) as asked, pytest.raises(HostAwayError, match="start one with `tmem daemon`"):
        asked.list()
    monkeypatch.setattr(hostpath, "find", lambda _host: None)
    with pytest.raises(HostAwayError, match="no daemon is found here"):
        admin_path()


def test_a_socket_that_nobody_serves_is_told(tmp_path: Path) -> None:
    left = tmp_path / "t.sock.admin"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
        made.bind(str(left))
    with Operator(str(tmp_path / "t.sock")) as asked, pytest.raises(HostAwayError, match="is gone, its socket is left"):
        asked.list()


def test_what_is_no_socket_of_a_daemon_is_told(tmp_path: Path) -> None:
    (tmp_path / "file.admin").write_text("")
    for path in (tmp_path / "file", tmp_path / ("long" * 40)):
        with Operator(str(path)) as asked, pytest.raises(TmemError):
            asked.list()


def test_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with Operator(str(tmp_path / "t.sock")) as asked, pytest.raises(TmemError, match="root or as the user"):
        asked.list()


def test_a_daemon_of_another_user_is_not_asked(server: OperatorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(operator, "_ROOT", 4243)
    with Operator(str(server.path)) as asked, pytest.raises(TmemError, match="it is not asked"):
        asked.list()
    assert server.asked == []


def _silent(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.bind(f"{path}.admin")
    made.listen()
    return made


def test_a_daemon_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "TIMEOUT", 0.05)
    with (
        _silent(tmp_path / "t.sock"),
        Operator(str(tmp_path / "t.sock")) as asked,
        pytest.raises(HostAwayError, match="does not answer within"),
    ):
        asked.list()


def test_a_wait_can_be_ended_from_another_thread(tmp_path: Path) -> None:
    with _silent(tmp_path / "t.sock"), Operator(str(tmp_path / "t.sock")) as asked:
        ending = threading.Timer(0.1, asked.interrupt)
        ending.start()
        with pytest.raises(HostAwayError, match="hung up"):
            asked.list()
        ending.join()


def test_a_daemon_that_comes_back_is_asked_again(server: OperatorServer) -> None:
    with Operator(str(server.path)) as asked:
        asked.list()
        server.stop()
        with pytest.raises(HostAwayError):
            asked.list()
        server.start()
        assert asked.list().host.policy == "weighted"


def test_the_administrators_socket_is_beside_the_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMEM_HOST", "/x/y.sock")
    assert admin_path() == "/x/y.sock.admin"
    assert admin_path("/z") == admin_path("/z.admin") == "/z.admin"


def test_the_first_socket_in_a_directory_of_root_or_this_user_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMEM_HOST", raising=False)
    places = [str(tmp_path / name / "tmem.sock") for name in ("none", "file", "other", "mine", "later")]
    monkeypatch.setattr(hostpath, "_places", lambda: places)
    assert hostpath.find(None) is hostpath.find("auto") is None
    for place in places[1:]:
        Path(place).parent.mkdir()
    Path(places[1]).touch()
    with contextlib.ExitStack() as open_ones:
        for place in places[2:]:
            made = open_ones.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            made.bind(place)
        if os.geteuid() == 0:
            os.chown(Path(places[2]).parent, 4242, 4242)
        else:
            Path(places[2]).unlink()
        assert hostpath.find("auto") == places[3]
    assert hostpath.find("/as/told") == "/as/told"


def test_the_places_are_the_machines_then_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert hostpath._places() == ["/run/tmem/tmem.sock", "/run/user/7/tmem/tmem.sock", "/tmp/tmem-7/tmem.sock"]
    assert hostpath.default_path() == "/run/user/7/tmem/tmem.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert hostpath.default_path() == "/tmp/tmem-7/tmem.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert hostpath.default_path() == "/run/tmem/tmem.sock"
