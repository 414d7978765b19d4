# SPDX-License-Identifier: Apache-2.0
"""`tmem run` reads its options itself, and reads them as argparse does."""

from __future__ import annotations

import pytest

from tmem.cli.main import make_parser
from tmem.cli.run import quick


@pytest.mark.parametrize(
    "words",
    [
        ["true"],
        ["--ram", "2G", "true"],
        ["--ram=2G", "--swap=/a:1G", "--", "true"],
        ["--report", "--json", "x.json", "--no-report", "python", "-c", "print(1)", "--ram", "3G"],
        ["--faults", "thread", "--config", "/x=y", "sh", "--", "x"],
        ["--show-config", "--json", "-"],
        ["--swap=-x", "true"],
        ["--host=/run/x.sock", "true"],
        ["--host", "--ram", "2G", "true"],
        ["--host", "--", "true"],
        ["--", "-x"],
    ],
)
def test_well_formed_words_mean_the_same_to_both(words: list[str]) -> None:
    options = quick(words)
    assert options is not None
    parsed = vars(make_parser(["run"]).parse_args(["run", *words]))
    program = parsed["program"]
    assert options.program == (program[1:] if program[:1] == ["--"] else program)
    assert vars(options) | {"program": program} == {key: parsed[key] for key in vars(options)}


def test_a_word_after_host_alone_is_the_program() -> None:
    options = quick(["--host", "sort", "--host=/x"])
    assert options is not None
    assert (options.host, options.program) == ("auto", ["sort", "--host=/x"])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--"],
        ["--ram"],
        ["--ram", "--", "true"],
        ["--ra", "2G", "true"],
        ["-x", "true"],
        ["--report=1", "true"],
        ["--faults", "other", "true"],
        ["--help"],
        ["-h"],
        ["--ram", "-1G", "true"],
    ],
)
def test_anything_else_is_left_to_argparse(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert quick(words) is None
    if words not in ([], ["--"]):  # where only the program is missing, which run() says
        with pytest.raises(SystemExit):
            make_parser(["run"]).parse_args(["run", *words])
        assert "usage: tmem" in "".join(capsys.readouterr())
