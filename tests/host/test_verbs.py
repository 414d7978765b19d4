# SPDX-License-Identifier: Apache-2.0
"""The operator's verbs: what they print, what they ask of the daemon, how they end."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.operatorserver import MIB, OperatorServer
from tmem.cli import main as cli

Tmem = Callable[..., tuple[int, str, str]]
SECRET = "00112233445566778899aabbccddeeff"  # noqa: S105 - of no pool

LIST = """\
policy weighted, 3 guests, 1 shared pool, pressure 2%
640.0 MiB of 1.0 GiB leased, 384.0 MiB free, 128.0 MiB freeable
id  name    pid  user   state      weight        cap      lease      share   resident   standby      store      swap\
  faults/s  stalled  refused
 3  train  4003  alice  -               2  768.0 MiB  448.0 MiB  512.0 MiB  480.0 MiB  20.0 MiB  100.0 MiB  90.0 MiB\
     5,200      31%        4
 4  web    4004  bob    frozen          1          -  112.0 MiB  256.0 MiB  100.0 MiB  20.0 MiB  100.0 MiB       0 B\
       120       5%        0
11  batch  4011  alice  ballooned       1          -   80.0 MiB  256.0 MiB  128.0 MiB       0 B  100.0 MiB       0 B\
         0       0%        0
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OperatorServer]:
    with OperatorServer(tmp_path / "t.sock") as made:
        made.known["host"]["since"] = 0.0
        yield made


@pytest.fixture
def tmem(server: OperatorServer, capsys: pytest.CaptureFixture[str]) -> Tmem:
    """Run a verb against the server; return its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        verb, *rest = arguments
        try:
            code = cli.main([verb, "--socket", str(server.path), *rest])
        except SystemExit as left:
            code = int(left.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_list_prints_host_and_guests(tmem: Tmem) -> None:
    assert tmem("list") == (0, LIST, "")
    assert tmem("list", "-a") == (0, LIST, "")


def test_list_tells_what_is_awaited_after_a_restart(tmem: Tmem, server: OperatorServer) -> None:
    server.known["host"] |= {"reserved_bytes": 64 * MIB, "counters": {}}
    assert "128.0 MiB freeable, 64.0 MiB awaited with guests of the last daemon\n" in tmem("list")[1]


def test_list_of_some_prints_no_host(tmem: Tmem) -> None:
    code, out, _ = tmem("list", "user:alice")
    assert code == 0
    assert out.splitlines() == [line for line in LIST.splitlines() if "id  name" in line or "alice" in line]


def test_list_long_has_blocks_of_host_guests_and_pools(tmem: Tmem, server: OperatorServer) -> None:
    server.known["guests"][1]["cgroup"] = "/evil\x1b[2J"
    code, out, _ = tmem("list", "-l")
    assert code == 0
    assert out.startswith(LIST)
    assert "\nhost\n  version       1.0.0\n  extent        4.0 MiB\n" in out
    assert "\nguest 3 (train)\n  persistent    448.0 MiB\n" in out
    assert "  active        25%\n  refused       host-full 3, over-cap 1\n" in out
    assert "\nshared pool 1\n  members       3, 4\n" in out
    assert "\x1b" not in out


def test_list_json_is_what_the_daemon_said(tmem: Tmem, server: OperatorServer) -> None:
    code, out, _ = tmem("list", "--json")
    assert code == 0
    assert json.loads(out) == server.known


def test_nobody_of_that_name_is_an_error(tmem: Tmem) -> None:
    for verb in ("list", "freeze", "thaw", "destroy"):
        code, out, err = tmem(verb, "nobody")
        assert (code, out) == (125, "")
        assert err.startswith(f"tmem {verb}: no guest is 'nobody'")
    assert tmem("freeze", " ")[0] == 125


def test_names_of_guests_are_no_markup(tmem: Tmem, server: OperatorServer) -> None:
    server.known["guests"][0]["name"] = "[red]x[/nope]"
    assert "[red]x[/nope]" in tmem("list")[1]
    assert "guest 3 ([red]x[/nope])" in tmem("list", "-l")[1]


@pytest.mark.parametrize(
    ("arguments", "asked", "said"),
    [
        ("freeze web", ("freeze", {"guest": "web"}), "frozen: 1 guest (4)\n"),
        ("freeze -a", ("freeze", {"guest": None}), "frozen: 3 guests (3, 4, 11)\n"),
        ("thaw user:alice", ("thaw", {"guest": "user:alice"}), "thawed: 2 guests (3, 11)\n"),
        (
            "set 3 --weight 4 --cap 1G --compress off --reservation 64M",
            ("set", {"guest": "3", "weight": 4, "cap": 1024 * MIB, "compress": False, "reservation": 64 * MIB}),
            "set: 1 guest (3)\n",
        ),
        ("set web -c 0 -r 0", ("set", {"guest": "web", "cap": 0, "reservation": 0}), "set: 1 guest (4)\n"),
        ("set -a -w 0", ("set", {"guest": None, "weight": 0}), "set: 3 guests (3, 4, 11)\n"),
        (
            "set pid:4004 -c none -r none -p on",
            ("set", {"guest": "pid:4004", "cap": "none", "reservation": 0, "compress": True}),
            "set: 1 guest (4)\n",
        ),
        (
            f"shared-auth web --uuid {SECRET} -A 1",
            ("shared-auth", {"guest": "web", "secret": SECRET, "allow": True}),
            "guest web may join the shared pool of that secret\n",
        ),
        (
            "shared-auth web --secret 00112233-4455-6677-8899-AABBCCDDEEFF -A 0",
            ("shared-auth", {"guest": "web", "secret": SECRET, "allow": False}),
            "guest web may no longer join the shared pool of that secret\n",
        ),
        ("freeable", ("freeable", {}), "128.0 MiB\n"),
        (
            "destroy web",
            ("destroy", {"guest": "web", "force": False}),
            "guest web is destroyed: 112.0 MiB are the host's again\n",
        ),
        (
            "destroy web --force",
            ("destroy", {"guest": "web", "force": True}),
            (
                "guest web is destroyed: 112.0 MiB are the host's again; its program stops with a report when it "
                "next touches a page that was there\n"
            ),
        ),
        (
            "balloon batch 64M",
            ("balloon", {"guest": "batch", "bytes": 64 * MIB}),
            "asked to keep within 64.0 MiB: 1 guest (11)\n",
        ),
        ("balloon batch off", ("balloon", {"guest": "batch", "bytes": 0}), "back to its own budget: 1 guest (11)\n"),
    ],
)
def test_each_verb_asks_and_tells(arguments: str, asked: object, said: str, tmem: Tmem, server: OperatorServer) -> None:
    assert tmem(*arguments.split()) == (0, said, "")
    assert server.asked == [asked]
    code, out, err = tmem(*arguments.replace("destroy web", "destroy batch").split(), "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict)


@pytest.mark.parametrize(
    "arguments",
    [
        "freeze", "freeze web -a", "thaw", "set web", "set -w 2", "set web -w -1", "set web -w 1048577",
        "set web --cap 2gb", "set web --cap 0K", "set web -p maybe", "shared-auth web -A 1",
        "shared-auth web -u 12 -A 1", f"shared-auth web -u {SECRET}", f"shared-auth web -u {SECRET} -A 2", "destroy",
        "balloon batch", "balloon batch lots", "balloon batch -5", "freeable x", "list a b", "top --interval 0",
        "top --sort nonsense",
    ],
)  # fmt: skip
def test_wrong_usage_asks_nothing(arguments: str, tmem: Tmem, server: OperatorServer) -> None:
    code, out, err = tmem(*arguments.split())
    assert (code, out) == (2, "")
    assert "usage:" in err
    assert server.asked == []


def test_a_wrong_secret_is_not_repeated(tmem: Tmem) -> None:
    assert "c0ffee" not in tmem("shared-auth", "web", "-u", "c0ffee", "-A", "1")[2]


def test_a_secret_is_read_from_standard_input(
    tmem: Tmem, server: OperatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(SECRET + "\n"))
    assert tmem("shared-auth", "web", "-u", "-", "-A", "1")[0] == 0
    assert server.asked[0][1]["secret"] == SECRET


def test_several_guests_are_an_error_where_one_is_meant(tmem: Tmem) -> None:
    code, _, err = tmem("destroy", "user:alice")
    assert (code, err) == (125, "tmem destroy: 2 guests are 'user:alice': name one\n")


def test_without_a_daemon_each_verb_ends_with_125(tmem: Tmem, server: OperatorServer) -> None:
    server.stop()
    for line in ("list", "freeze -a", "freeable", "destroy 3", "balloon 3 1G", "set 3 -w 1", "top --once"):
        code, out, err = tmem(*line.split())
        assert (code, out) == (125, "")
        assert "start one with `tmem daemon`" in err


def test_top_once_prints_rates_of_its_own_two_readings(
    tmem: Tmem, server: OperatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tmem.top.model.LEAST_SECONDS", 0.1)

    def grow(_known: dict[str, object]) -> None:
        train = server.known["guests"][0]
        train["faults"] += 1000
        train["fault_ns"] += 50_000_000

    server.grow = grow
    code, out, _ = tmem("top", "--once", "--json", "--interval", "0.2", "--sort", "name")
    assert code == 0
    document = json.loads(out)
    assert [guest["name"] for guest in document["guests"]] == ["batch", "train", "web"]
    train = document["guests"][1]
    assert 2000 < train["faults_s"] <= 5000
    assert 0.1 < train["stall"] <= 0.25
    assert train["lease_bytes"] == 448 * MIB
    assert (document["host"]["granted_s"], document["seconds"]) == (0, 0.2)
    assert len(server.asked) == 2
    monkeypatch.undo()
    code, out, _ = tmem("top", "--once", "--interval", "0.1")
    assert code == 0
    assert out.splitlines()[:3] == LIST.splitlines()[:3]


def test_top_needs_a_terminal_and_once_needs_no_textual(server: OperatorServer) -> None:
    code = """
import sys
sys.modules["textual"] = None
from tmem.cli.main import main
once = main(["top", "--socket", sys.argv[1], "--once", "--interval", "0.1"])
class Terminal:
    def isatty(self): return True
    def flush(self): pass
if "nothing" not in sys.argv: sys.stdin = sys.stdout = Terminal()
sys.exit(once or main(["top", "--socket", sys.argv[1]]))
"""
    for more, said in (((), "pip install 'tmem[host]'"), (("nothing",), "needs a terminal: use --once")):
        command = [sys.executable, "-c", code, str(server.path), *more]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert ran.returncode == 125, ran.stderr
        assert said in ran.stderr
        assert "train" in ran.stdout


def test_a_verb_of_the_operator_imports_no_native_module_and_no_textual(server: OperatorServer) -> None:
    code = (
        "import sys; from tmem.cli.main import main; main(['freeze', '--socket', sys.argv[1], '-a']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(server.path)], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert not {"numpy", "textual", "tmem.cli.list", "tmem.cli.run", "tmem.memory", "asyncio"} & loaded


def _shell(server: OperatorServer, command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which TMEM is the command and HERE names the server."""
    line = command.replace("TMEM", f"{sys.executable} -m tmem.cli.main").replace("HERE", f"--socket {server.path}")
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("TMEM list -l HERE >&-", 0, ""),
        ("TMEM freeze web HERE >&- 2>&-", 0, ""),
        ("TMEM list -l HERE | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("TMEM freeable HERE >/dev/full", 125, "tmem freeable: [Errno 28] No space left on device\n"),
    ],
)
def test_wherever_the_output_goes_it_ends_politely(server: OperatorServer, command: str, code: int, said: str) -> None:
    done = _shell(server, command)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)
