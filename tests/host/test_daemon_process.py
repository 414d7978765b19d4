# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: signals, systemd, metrics, kill -9, and a dry run."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hostguest import RawAdmin, RawGuest
from tmem.cli import daemon as verb
from tmem.daemon import start

MIB = 1 << 20
COMMAND = [sys.executable, "-m", "tmem.daemon"]


@contextmanager
def running(directory: Path, *arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start a daemon at `directory`/host.sock and wait until it answers; kill it at the end, if it still runs."""
    path = directory / "host.sock"
    command = [*COMMAND, "--socket", str(path), "--capacity", "64M", "--extent", "1M", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | env) as process:
        try:
            end = time.monotonic() + 20
            while True:
                try:
                    RawAdmin(path).socket.close()
                    break
                except OSError:
                    assert process.poll() is None, process.stderr and process.stderr.read()
                    assert time.monotonic() < end
                    time.sleep(0.01)
            yield process
        finally:
            process.kill()


def test_it_ends_gracefully_and_takes_nothing_along(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(tmp_path) as process, RawGuest(tmp_path / "host.sock") as guest:
            assert guest.lease(4) == 4
            process.send_signal(number)
            assert process.wait(10) == 0
            assert [os.fstat(fd).st_blocks for fd in guest.held.values()] == [MIB // 512] * 4
            assert {entry.name for entry in tmp_path.iterdir()} == {"host.sock.lock", "host.sock.state"}


def test_kill_9_loses_nothing_and_the_next_one_knows(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        guest = RawGuest(tmp_path / "host.sock")
        assert guest.lease(4) == 4
        process.kill()
        process.wait(10)
        held = dict(guest.held)
        assert [os.fstat(fd).st_blocks for fd in held.values()] == [MIB // 512] * 4
    with running(tmp_path), RawAdmin(tmp_path / "host.sock") as admin, RawGuest(tmp_path / "host.sock") as back:
        assert admin.ask("list")["host"]["reserved_bytes"] == 4 * MIB
        assert all(back.claim(list(held), list(held.values())))
        assert admin.ask("check") == {"broken": [], "blocks": 4 * MIB}
    guest.held.clear()
    guest.close()


def test_a_reload_changes_the_rules_and_a_bad_one_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tmem.toml"
    file.write_text('[[guest]]\nname = "raw"\nweight = 2\n')
    with running(tmp_path, "--config", str(file)) as process, RawAdmin(tmp_path / "host.sock") as admin:

        def weight_of_a_new_guest() -> int:
            with RawGuest(tmp_path / "host.sock") as guest:
                assert guest.welcome is not None
                found: int = admin.ask("list", guest=str(guest.welcome.guest_id))["guests"][0]["weight"]
                return found

        assert weight_of_a_new_guest() == 2
        for text, weight in (('[[guest]]\nname = "raw"\nweight = 3\n', 3), ("weight = 9", 3), ("", 1)):
            file.write_text(text)
            process.send_signal(signal.SIGHUP)
            time.sleep(0.1)
            assert weight_of_a_new_guest() == weight
        process.terminate()
        assert process.stderr is not None
        assert "stays as it was" in process.stderr.read()


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.settimeout(10)
        told.bind(str(tmp_path / "notify"))
        with running(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000") as process:
            said = [told.recv(1000).decode() for _ in range(4)]
            assert any(text.startswith("READY=1\nSTATUS=64.0 MiB for guests") for text in said)
            assert said.count("WATCHDOG=1") == 3
            process.send_signal(signal.SIGHUP)
            while told.recv(1000) != b"RELOADING=1":
                pass
            process.terminate()
            while told.recv(1000) != b"STOPPING=1":
                pass


def test_metrics_are_on_the_loopback_when_asked_for(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(tmp_path, "--metrics", str(port)) as process, RawGuest(tmp_path / "host.sock") as guest:
        assert guest.lease(3) == 3
        assert guest.lease(1, kind=2, pool=4) == 0
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert re.search(r"^tmem_host_leased_bytes 3\.145728e\+06$", text, re.MULTILINE)
        assert re.search(r'^tmem_host_refused_total\{reason="not-granted"\} 1\.0$', text, re.MULTILINE)
        assert re.search(r"^tmem_host_granted_total 3\.0$", text, re.MULTILINE)
        process.terminate()
        assert process.wait(10) == 0


def test_without_the_extra_metrics_say_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [*COMMAND, "--socket", str(tmp_path / "host.sock"), "--capacity", "64M", "--metrics", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=30)
    assert done.returncode == 125
    assert "tmem[host]" in done.stderr


def test_it_imports_neither_numpy_nor_the_native_module() -> None:
    code = (
        "import sys, tmem.daemon.start; print(sorted({'numpy', 'tmem._core', 'prometheus_client'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_two_at_one_socket_and_bad_arguments_are_told(tmp_path: Path) -> None:
    with running(tmp_path):
        command = [*COMMAND, "--socket", str(tmp_path / "host.sock"), "--capacity", "64M"]
        for more, why in ([], "already"), (["--capacity", "0"], "capacity"), (["--extent", "5k"], "extent"):
            done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=30)
            assert done.returncode == 125
            assert why in done.stderr
            assert "Traceback" not in done.stderr


VIEW: dict[str, Any] = {
    "capacity": 16,
    "free": 0,
    "guests": [
        {"id": 1, "name": "hog", "uid": 1, "persistent": 8, "ephemeral": 8},
        {"id": 2, "name": "new", "uid": 1},
    ],
    "request": {"guest": 2, "kind": 0, "count": 4},
}


def test_a_dry_run_tells_what_a_policy_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "view.json"
    file.write_text(json.dumps(VIEW))
    parser = argparse.ArgumentParser()
    start.add_arguments(parser)
    for name in (str(file), "-"):
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(VIEW)))
        assert start.run(parser.parse_args(["--dry-run", name, "--policy", "weighted", "--capacity", "64M"])) == 0
        decision = json.loads(capsys.readouterr().out)
        assert (decision["grant"], decision["revoke"]) == (4, [[1, 4]])
    tick = {key: value for key, value in VIEW.items() if key != "request"}
    assert start.dry_run(json.dumps(tick), "fixed").grant == 0
    for bad in ("[]", "{", '{"capacity": "x"}', json.dumps(VIEW | {"request": {"guest": 9}})):
        with pytest.raises(start.DryRunError):
            start.dry_run(bad, "weighted")


def test_the_verb_has_the_daemons_flags() -> None:
    assert verb.OWN_JSON
    assert (verb.__doc__ or "").startswith("Lease memory to programs")
