# SPDX-License-Identifier: Apache-2.0
"""The ledger file: its layout, where it goes, and when it is removed."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tmem import ledger
from tmem.errors import TmemError

RAM = 64 << 20


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ledger, "places", lambda _env: [str(tmp_path)])
    return tmp_path


def _change(path: str, at: int, *numbers: int) -> None:
    with Path(path).open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(f"<{len(numbers)}Q", *numbers))


def _now() -> tuple[int, int]:
    since = ledger.start_time(os.getpid())
    assert since is not None
    return os.getpid(), since


def test_create_makes_a_private_file_with_its_header(home: Path) -> None:
    before = os.umask(0o777)
    try:
        path = ledger.create(RAM, {})
    finally:
        os.umask(before)
    data = Path(path).read_bytes()
    assert len(data) == ledger.SIZE == 64 << 10
    assert data[:8] == b"tmemledg"
    assert struct.unpack("<4Q", data[8:40]) == (1, RAM, *_now())
    assert not any(data[40:])
    info = Path(path).stat()
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert info.st_blocks * 512 >= ledger.SIZE
    assert Path(path).name.startswith(f"tmem-run-{os.geteuid()}-{os.getpid()}-")
    assert Path(path).parent == home


def test_create_goes_to_the_next_place_and_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = str(tmp_path / "missing")
    monkeypatch.setattr(ledger, "places", lambda _env: [missing, str(tmp_path)])
    assert Path(ledger.create(RAM, {})).parent == tmp_path
    monkeypatch.setattr(ledger, "places", lambda _env: [missing])
    with pytest.raises(TmemError, match=r"missing: No such file .*set TMPDIR"):
        ledger.create(RAM, {})


def test_create_leaves_nothing_where_there_is_no_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TmemError, match="No space left"):
        ledger.create(RAM, {})
    assert list(home.iterdir()) == []


def test_places_are_memory_then_the_users_own() -> None:
    assert ledger.places({}) == ["/dev/shm", "/tmp"]
    assert ledger.places({"XDG_RUNTIME_DIR": "/run/user/1", "TMPDIR": "here"}) == ["/dev/shm", "/run/user/1", "/tmp"]


def test_sweep_removes_a_ledger_whose_processes_are_gone(home: Path) -> None:
    path = ledger.create(RAM, {})
    assert ledger.sweep({}) == []
    pid, since = _now()
    _change(path, 24, pid, since + 1)  # the number belongs to another process by now
    assert ledger.sweep({}) == [path]
    assert list(home.iterdir()) == []


def test_sweep_leaves_a_ledger_with_a_process_alive_in_any_slot(home: Path) -> None:
    path = ledger.create(RAM, {})
    _change(path, 24, 1 << 30, 5)
    _change(path, 4096 + 479 * 128, *_now())
    assert ledger.processes(path) == [(1 << 30, 5), _now()]
    assert ledger.sweep({}) == []
    _change(path, 4096 + 479 * 128, 0, 0)
    assert ledger.sweep({}) == [path]
    assert list(home.iterdir()) == []


def test_sweep_leaves_a_ledger_that_is_being_made_and_takes_one_that_was(home: Path) -> None:
    path = Path(ledger.create(RAM, {}))
    path.write_bytes(b"")
    assert ledger.sweep({}) == []
    words = path.name.split("-")
    words[3] = str(1 << 30)
    path.rename(home / "-".join(words))
    assert ledger.sweep({}) == [str(home / "-".join(words))]


def test_sweep_counts_a_process_that_only_waits_to_be_reaped_as_gone(home: Path) -> None:
    program = f"import os, sys; from tmem import ledger; ledger.places = lambda _: [{str(home)!r}]\n"
    program += f"print(ledger.create({RAM}, {{}}))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        path = made.stdout.read().strip()
        os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT)
        assert ledger.sweep({}) == [path]


def test_sweep_leaves_what_is_not_this_users_to_judge(home: Path) -> None:
    path = Path(ledger.create(RAM, {}))
    _change(str(path), 24, 1 << 30, 5)
    words = path.name.split("-")
    kept = ["-".join([*words[:4], "1", words[5]]), "-".join([*words[:2], "12345", *words[3:]]), "tmem-run-x", "other"]
    for name in kept:
        (home / name).write_bytes(path.read_bytes())
    (home / f"{path.name}link").symlink_to(home / "other")
    assert ledger.sweep({}) == [str(path)]
    assert sorted(item.name for item in home.iterdir()) == sorted([*kept, f"{path.name}link"])
