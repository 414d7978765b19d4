# SPDX-License-Identifier: Apache-2.0
"""The command line: its exit codes, its JSON, its manners."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tmem import __version__
from tmem.cli import main as cli
from tmem.errors import TmemError


def test_no_verb_and_unknown_verb_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [],
        ["nonsense"],
        ["stats", "x"],
        ["stats", "-1"],
        ["demo", "--size", "2 gb"],
        ["demo", "--nope"],
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
        assert "usage:" in capsys.readouterr().err


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"tmem {__version__}\n"


@pytest.mark.parametrize("verb", ["doctor", "stats", "demo", "bench"])
def test_help_of_each_verb_tells_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_doctor_prints_findings_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor"])
    text = capsys.readouterr().out
    assert "userfaultfd" in text
    assert cli.main(["doctor", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["usable"] is (code == 0)
    assert {"name", "ok", "what", "remedy", "needed"} == set(document["findings"][0])


def test_stats_of_a_process_without_memories_fails_with_125(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "4194303"]) == cli.FAILED
    assert "tmem stats: process 4194303 has no" in capsys.readouterr().err


def test_stats_prints_a_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TmemError("no room"), 125, "tmem stats: no room\n"),
        (OSError(28, "No space left"), 125, "No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_main_turns_exceptions_into_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_options: object) -> int:
        raise error

    monkeypatch.setattr("tmem.cli.stats.run", run)
    assert cli.main(["stats"]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_output_into_a_pipe_has_no_colour_and_no_traceback_when_it_closes() -> None:
    command = [sys.executable, "-m", "tmem.cli.main", "doctor"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "\x1b" not in shown.stdout + shown.stderr
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as cut:
        assert cut.stdout is not None
        assert cut.stderr is not None
        cut.stdout.close()
        assert "Traceback" not in cut.stderr.read()
