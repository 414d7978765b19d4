# SPDX-License-Identifier: Apache-2.0
"""How `tmem run` starts a program, with a stand-in for the preload object: what it hands over, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tmem import ledger
from tmem.errors import TmemError
from tmem.launch import entry_for, preload_object

STAND_IN = """
import sys
from tmem import launch
from tmem.cli.main import main
found = sys.argv.pop(1)
launch.preload_object = lambda: found
sys.exit(main())
"""
TELL = "import json, os; print(json.dumps([os.getpid(), os.getcwd(), dict(os.environ)]))"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A preload object that does nothing."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    try:
        entry_for("auto")
    except TmemError as error:
        pytest.skip(f"nothing can be run here: {error}")
    home = tmp_path_factory.mktemp("stand-in")
    (home / "one.c").write_text("int tmem_stand_in;\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", home / "_preload.so", home / "one.c"], check=True)
    return str(home / "_preload.so")


@pytest.fixture
def command(stand_in: str, tmp_path: Path) -> Iterator[list[str]]:
    """The words before those of `tmem`, in a place without settings; the ledgers that are left go at the end."""
    yield [sys.executable, "-c", STAND_IN, stand_in]
    ledger.sweep({"TMPDIR": str(tmp_path)})


@pytest.fixture
def run(command: list[str], tmp_path: Path) -> Run:
    def start(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("TMEM_")}
        env |= options.pop("env", {})
        done = subprocess.run(
            [*command, "run", *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
            **options,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return start


def _fields(environment: dict[str, str]) -> dict[str, str]:
    pairs = (part.partition("=") for part in environment["TMEM_RUN"].split(";"))
    return {name: unquote(value) for name, _, value in pairs}


def test_program_is_this_process_with_its_environment_and_two_more(
    command: list[str], stand_in: str, tmp_path: Path
) -> None:
    place = tmp_path / "a b;c%é"
    place.mkdir()
    words = [*command, "run", "--ram", "64M", "--swap", f"{place}:8M", "--report", "--json", "out.json", "--"]
    env = {"PATH": os.environ["PATH"], "ODD": "a=b\nc\udcff", "EMPTY": "", "LD_PRELOAD": f"libc.so.6 {stand_in}"}
    with subprocess.Popen(
        [*words, sys.executable, "-c", TELL], env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, err = process.communicate(timeout=60)
    pid, where, got = json.loads(out)
    assert (pid, where, err) == (process.pid, str(tmp_path), b"")
    fields = _fields(got)
    assert fields.pop("ledger").startswith(f"/dev/shm/tmem-run-{os.geteuid()}-{pid}-")
    assert fields == {
        "v": "1",
        "ram": str(64 << 20),
        "swap": str(place),
        "swap_max": str(8 << 20),
        "faults": "auto",
        "report": "1",
        "json": str(tmp_path / "out.json"),
        "root": str(pid),
    }
    plain = json.loads(subprocess.run([sys.executable, "-c", TELL], env=env, stdout=-1, check=True).stdout)[2]
    del got["TMEM_RUN"]
    assert got == plain | {"LD_PRELOAD": f"{stand_in}:libc.so.6"}


def test_python_does_not_leave_its_locale_behind(run: Run) -> None:
    shown = run("sh", "-c", "env", env={"LC_ALL": "", "LANG": "", "LC_CTYPE": ""}).stdout
    assert "LC_CTYPE=\n" in shown


def test_signals_and_descriptors_are_as_they_came(run: Run) -> None:
    def before() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    with Path(os.devnull).open("rb") as extra:
        show = ["sh", "-c", "grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd"]
        options: dict[str, Any] = {"preexec_fn": before, "pass_fds": [extra.fileno()]}
        ran = run(*show, **options)
        plain = subprocess.run(show, capture_output=True, text=True, check=True, **options)
    assert ran.stdout == plain.stdout
    ignored = int(next(line for line in ran.stdout.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    ordinary = (1 << 31) - 1  # whoever started the tests may have had others ignored
    assert ignored & ordinary == 1 << (signal.SIGHUP - 1) | 1 << (signal.SIGINT - 1)


@pytest.mark.parametrize(("code", "left"), [("exit 7", 7), ("kill -9 $$", -9), ("true", 0)])
def test_exit_code_is_the_programs_own(run: Run, code: str, left: int) -> None:
    assert run("--ram=32M", "sh", "-c", code).returncode == left


def test_wrong_usage_is_2(run: Run) -> None:
    for words in (
        [],
        ["--ram"],
        ["--rma", "1G", "true"],
        ["--ram", "2gb", "true"],
        ["--json", "-", "true"],
        ["--faults", "x", "true"],
    ):
        ran = run(*words)
        assert (ran.returncode, "usage:" in ran.stderr) == (2, True), words


def test_what_cannot_be_started_is_126_or_127(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    (tmp_path / "lost").write_text("#!/no/such/interpreter\n")
    (tmp_path / "lost").chmod(0o755)
    for name, code in (("no-such-program", 127), ("./missing", 127), ("", 127), ("./lost", 127), (".", 126)):
        assert run("--", name).returncode == code, name
    plain = run("./plain")
    assert plain.returncode == 126
    assert plain.stderr.startswith("tmem run: ./plain: permission denied")


def test_path_is_searched_as_execvp_does(run: Run, tmp_path: Path) -> None:
    for home, mode in (("one", 0o644), ("two", 0o755)):
        (tmp_path / home).mkdir()
        (tmp_path / home / "tool").write_text(f"#!/bin/sh\necho {home} $0 $@\n")
        (tmp_path / home / "tool").chmod(mode)
    path = f"{tmp_path}/missing:{tmp_path}/one:{tmp_path}/two:{os.environ['PATH']}"
    assert run("tool", "--ram", "x", env={"PATH": path}).stdout == f"two {tmp_path}/two/tool --ram x\n"
    assert run("tool", env={"PATH": f"{tmp_path}/one"}).returncode == 126
    (tmp_path / "two/tool").write_text("echo shell $0 $@\n")
    assert run("tool", "a b", env={"PATH": path}).stdout == f"shell {tmp_path}/two/tool a b\n"


def test_programs_out_of_reach_are_125_with_the_reason(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text("int main(void) { return 0; }\n")
    for name, option in (("static", "-static"), ("dynamic", "-O1")):
        made = subprocess.run(["gcc", "-o", tmp_path / name, tmp_path / "one.c", option], check=False)
        if made.returncode:
            pytest.skip("gcc links no static program here")
    scripts = {
        "kernel": f"#!{tmp_path}/static",
        "env": "#!/usr/bin/env static",
        "split": "#!/usr/bin/env -S A=1 static x",
    }
    for name, line in scripts.items():
        (tmp_path / name).write_text(f"{line}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for name in ("static", *scripts):
        ran = run(name, env={"PATH": path})
        assert (ran.returncode, ran.stdout) == (125, ""), name
        assert f"tmem run: {tmp_path}/static cannot be run under a budget: it is linked statically" in ran.stderr
    assert run("dynamic", env={"PATH": path}).returncode == 0
    for mode, word in ((0o4755, "setuid"), (0o2755, "setgid")):
        (tmp_path / "dynamic").chmod(mode)
        ran = run("./dynamic")
        assert ran.returncode == 125
        assert f"it is {word}" in ran.stderr


def test_file_capabilities_are_refused(run: Run, tmp_path: Path, need_root: None) -> None:  # noqa: ARG001
    program = tmp_path / "capable"
    shutil.copy(shutil.which("true") or "/bin/true", program)
    try:  # version 2: cap_net_raw, effective
        os.setxattr(program, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    except OSError as error:
        pytest.skip(f"this file system takes no capabilities: {error}")
    ran = run("./capable")
    assert (ran.returncode, "file capabilities" in ran.stderr) == (125, True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--ram", "1M"], "below the minimum of 16 MiB"),
        (["--ram", "900T"], "ask for less"),
        (["--swap", "/no/such/dir"], "swap directory /no/such/dir: it does not exist"),
        (["--swap", "/tmp:900T"], "are free: ask for less"),
        (["--json", "/no/such/dir/x"], "cannot be written"),
        (["--config", "/no/such.toml"], "No such file"),
    ],
)
def test_what_the_machine_cannot_give_is_125(run: Run, words: list[str], reason: str) -> None:
    ran = run(*words, "echo", "started")
    assert (ran.returncode, ran.stdout) == (125, "")
    assert ran.stderr.startswith("tmem run: ")
    assert reason in ran.stderr


def test_a_budget_inside_a_budget_is_refused(run: Run) -> None:
    env = {"TMEM_RUN": f"v=1;ledger={ledger.create(64 << 20, {})};root={os.getpid()}"}
    ran = run("true", env=env)
    assert ran.returncode == 125
    assert f"has a budget already (process {os.getpid()})" in ran.stderr
    Path(env["TMEM_RUN"].split(";")[1].removeprefix("ledger=")).unlink()
    assert run("true", env=env).returncode == 0  # what is left of a tree that is gone


def test_ledgers_of_runs_that_ended_are_removed(run: Run) -> None:
    paths = [_fields(json.loads(run(sys.executable, "-c", TELL).stdout)[2])["ledger"] for _ in range(2)]
    assert [Path(path).exists() for path in paths] == [False, True]


def test_a_run_that_fails_leaves_no_ledger(run: Run, tmp_path: Path) -> None:
    shutil.copy(shutil.which("true") or "/bin/true", tmp_path / "busy")
    before = set(Path("/dev/shm").glob("tmem-run-*"))
    with (tmp_path / "busy").open("ab"):  # nobody may execute a file that is written to
        ran = run("./busy")
    assert (ran.returncode, ran.stderr) == (126, "tmem run: ./busy: Text file busy\n")
    assert set(Path("/dev/shm").glob("tmem-run-*")) <= before


def test_show_config_tells_values_origins_and_what_they_mean(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tmem.toml").write_text('[run]\nswap = "none"\n')
    shown = run("--ram", "1G", "--show-config", env={"TMEM_REPORT": "1"})
    lines = [line.split(None, 2) for line in shown.stdout.splitlines()]
    assert ["ram", "1G", "--ram"] in lines
    assert ["swap", "none", "./tmem.toml [run] swap"] in lines
    assert ["report", "true", "TMEM_REPORT"] in lines
    assert shown.stdout.endswith("here: 1.0 GiB of RAM, no swap\n")
    document = json.loads(run("--ram", "1M", "--show-config", "--json", "-").stdout)
    assert document["settings"]["ram"] == {"value": "1M", "origin": "--ram"}
    assert document["settings"]["json"] == {"value": None, "origin": "default"}
    assert "below the minimum" in document["budget"]["refused"]


def test_the_preload_object_is_there_or_missing_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tmem.launch.__file__", str(tmp_path / "launch.py"))
    with pytest.raises(TmemError, match=rf"_preload\*\.so in {tmp_path}, is missing: install tmem again"):
        preload_object()
    (tmp_path / "_preload.abi3.so").write_bytes(b"x")
    assert preload_object() == f"{tmp_path}/_preload.abi3.so"
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b/_preload.so").write_bytes(b"x")
    monkeypatch.setattr("tmem.launch.__file__", str(tmp_path / "a:b/launch.py"))
    with pytest.raises(TmemError, match="blank or a colon"):
        preload_object()


def test_stats_of_a_tree_are_those_of_its_processes(command: list[str], tmp_path: Path) -> None:
    inside = "import tmem, sys; memory = tmem.Memory('16M', name='inside', swap=None); print('there', flush=True)\n"
    inside += "sys.stdin.read()"
    words = [*command, "run", "--ram", "64M", "--", sys.executable, "-c", inside]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        tree = subprocess.run(
            [*command, "stats", "--tree", "--json", str(process.pid)], capture_output=True, text=True, check=True
        )
        assert [one["name"] for one in json.loads(tree.stdout)] == ["inside"]
        process.communicate("")
    for words in (["--tree"], ["--tree", str(os.getpid())]):
        ran = subprocess.run([*command, "stats", *words], capture_output=True, text=True, check=False)
        assert ran.returncode == 125
        assert "tree" in ran.stderr
