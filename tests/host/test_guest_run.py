# SPDX-License-Identifier: Apache-2.0
"""Programs that know nothing of tmem as guests: `tmem run --host`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.guestdaemon import ENV, KilledDaemon, until

MIB = 1 << 20
TMEM = [sys.executable, "-m", "tmem.cli.main", "run"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[KilledDaemon]:
    with KilledDaemon(tmp_path) as running:
        yield running


def run(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*TMEM, *words], input=stdin, capture_output=True, timeout=120, env=ENV, check=False)


def test_sort_of_many_lines_needs_no_swap(daemon: KilledDaemon, tmp_path: Path) -> None:
    lines = [f"{n * 7919 % 400_009:09d} some words that pack well" for n in range(400_009)]
    report = tmp_path / "report.json"
    told = ["--ram", "20M", "--swap", "none", f"--host={daemon.path}", "--json", str(report), "--report"]
    sort = [str(shutil.which("sort")), "--parallel=1", "-S", "60M"]
    done = run(*told, *sort, stdin="\n".join(lines).encode())
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.decode().splitlines() == sorted(lines)
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["leased"] > 0
    assert b"MiB on lease from the daemon at the peak" in done.stderr
    until(lambda: daemon.ask("list")["host"]["leased_bytes"] == 0, "all is free again")


CHILDREN = """
import os
blocks = [bytearray(os.urandom(512) * 2048) for n in range(60)]
sums = [hash(bytes(b)) for b in blocks]
child = os.fork()
blocks += [bytearray(os.urandom(512) * 2048) for n in range(20)]
sums += [hash(bytes(b)) for b in blocks[60:]]
assert [hash(bytes(b)) for b in blocks] == sums
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("good")
"""


@pytest.mark.parametrize("faults", ["signal", "thread"])
def test_a_program_and_its_child_are_guests(daemon: KilledDaemon, tmp_path: Path, faults: str) -> None:
    report = tmp_path / "report.json"
    told = ["--ram", "32M", "--swap", "256M", "--faults", faults, f"--host={daemon.path}", "--json", str(report)]
    done = run(*told, sys.executable, "-c", CHILDREN)
    assert (done.returncode, done.stdout) == (0, b"good\n"), done.stderr[-2000:]
    assert json.loads(report.read_text(encoding="utf-8"))["leased"] > 0
    until(lambda: daemon.guests() == [], "both are gone")


def test_a_killed_daemon_is_no_harm(daemon: KilledDaemon) -> None:
    program = (
        "import os, sys; b = [bytearray(os.urandom(512) * 2048) for n in range(60)]; s = [hash(bytes(x)) for x in b]\n"
        "print('full', flush=True); sys.stdin.readline(); assert [hash(bytes(x)) for x in b] == s; print('good')"
    )
    command = [*TMEM, "--ram", "32M", "--swap", "256M", f"--host={daemon.path}", sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        assert guest.stdout.readline() == "full\n"
        (row,) = daemon.guests()
        assert row["persistent_bytes"] > 0
        assert row["pid"] == guest.pid
        daemon.kill()
        daemon.start()
        until(lambda: [row["pid"] for row in daemon.guests()] == [guest.pid], "it is back")
        until(lambda: daemon.ask("list")["host"]["counters"]["claimed"] > 0, "it claims")
        out, _ = guest.communicate("go\n", timeout=60)
        assert (guest.returncode, out) == (0, "good\n")


def test_what_is_told_of_the_host(daemon: KilledDaemon, tmp_path: Path) -> None:
    shown = json.loads(run("--show-config", "--json", "-", f"--host={daemon.path}").stdout)
    assert shown["settings"]["host"] == {"value": str(daemon.path), "origin": "--host"}
    assert shown["budget"]["host"] == str(daemon.path)
    text = run("--show-config", f"--host={daemon.path}").stdout.decode()
    assert f"leases from {daemon.path}" in text
    environment = ENV | {"TMEM_HOST": str(tmp_path / "nobody")}
    command = [*TMEM, "--show-config", "--json", "-", "--host"]
    shown = json.loads(subprocess.run(command, capture_output=True, timeout=60, env=environment, check=True).stdout)
    assert shown["settings"]["host"] == {"value": "auto", "origin": "--host"}
    assert shown["budget"]["host"] == str(tmp_path / "nobody")
    wrong = run("--host=/" + "x" * 200, "true")
    assert wrong.returncode == 125
    assert b"107 bytes" in wrong.stderr


def test_without_a_daemon_a_program_runs_alone(tmp_path: Path) -> None:
    done = run("--ram", "32M", f"--host={tmp_path}/nobody", sys.executable, "-c", "print(len(bytearray(50 << 20)))")
    assert (done.returncode, done.stdout) == (0, b"52428800\n"), done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []
