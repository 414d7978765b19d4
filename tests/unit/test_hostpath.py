# SPDX-License-Identifier: Apache-2.0
"""Where a guest looks for its daemon, and whom it lets that run as."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tmem import hostpath
from tmem.errors import TmemError


def test_a_named_socket_is_taken_as_it_is_and_auto_is_the_environments_first(tmp_path: Path) -> None:
    assert hostpath.find(None) is None
    assert hostpath.find(tmp_path / "x.sock") == f"{tmp_path}/x.sock"
    assert hostpath.find("x.sock") == f"{Path.cwd()}/x.sock"
    assert hostpath.find("auto", {"TMEM_HOST": "/run/other.sock"}) == "/run/other.sock"


def test_auto_is_a_socket_in_a_directory_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostpath, "_places", lambda: [str(tmp_path / "none"), str(tmp_path / "host.sock")])
    assert hostpath.find("auto", {}) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(tmp_path / "host.sock"))
        assert hostpath.find("auto", {}) == f"{tmp_path}/host.sock"


@pytest.mark.parametrize("name", ["/" + "x" * 107, "/x\0y"])
def test_what_no_socket_can_be_called_is_an_error(name: str) -> None:
    with pytest.raises(TmemError, match="107 bytes"):
        hostpath.find(name)


def test_a_trusted_user_is_a_number(tmp_path: Path) -> None:
    assert hostpath.trusted_uid({}) is None
    assert hostpath.trusted_uid({"TMEM_HOST_UID": "4321"}) == 4321
    for wrong in ("me", "-1", "4294967295"):
        with pytest.raises(TmemError, match="number of a user"):
            hostpath.trusted_uid({"TMEM_HOST_UID": wrong})
    assert hostpath.of_guest(None, None) is None
    socket_path, name, _ = hostpath.of_guest(tmp_path, "me") or ("", None, None)
    assert (socket_path, name) == (str(tmp_path), "me")
