# SPDX-License-Identifier: Apache-2.0
"""A program that does to its memory all that programs do, at random, finds every page as it left it under `tmem run`.

space.c maps, unmaps in part, grows, moves, protects, advises, maps over and forks, and compares each page with what
it wrote there. With a budget that has room for what it protects and moves, nothing may be refused; with a small one
or without swap, what is refused must have changed nothing.

Needs gcc and a fault entry that the kernel permits; skipped by name where one is missing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import refusal

SOURCE = Path(__file__).with_name("space.c")
TMEM = Path(sysconfig.get_path("scripts"), "tmem")
ENTRIES = ("thread", "signal")


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc: install the package gcc")
    made = tmp_path_factory.mktemp("space") / "space"
    subprocess.run([gcc, "-O2", "-Wall", "-Werror", "-pthread", "-o", made, SOURCE], check=True, timeout=60)
    return made


def _run(space: Path, faults: str, words: str, options: str, seconds: float) -> int:
    """Run it with `words` (seed, steps, threads) under `tmem run`; return how often it was refused something."""
    if reason := refusal(faults):
        pytest.skip(f"the {faults} entry cannot be used here: {reason}")
    assert TMEM.exists(), f"no {TMEM}: make build"
    command = [str(TMEM), "run", "--faults", faults, *options.split(), "--", str(space), *words.split()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert ran.returncode == 0, f"{options} {words}: ended with {ran.returncode}: {ran.stderr[-2000:]}"
    done = re.fullmatch(r"done, (\d+) refused", ran.stdout.strip())
    assert done is not None, ran.stdout
    return int(done[1])


@pytest.mark.parametrize("faults", ENTRIES)
@pytest.mark.parametrize(("seed", "threads"), [(2, 1), (7, 4)])
def test_pages_are_as_they_were_left(space: Path, faults: str, seed: int, threads: int) -> None:
    _run(space, faults, f"{seed} 120 {threads}", "--ram 32M", seconds=60)


@pytest.mark.parametrize("faults", ENTRIES)
def test_nothing_is_refused_where_there_is_room(space: Path, faults: str) -> None:
    assert _run(space, faults, "5 120 1", "--ram 96M", seconds=60) == 0


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("faults", ENTRIES)
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("options", ["--ram 16M", "--ram 64M", "--ram 32M --swap none", "--ram 512M --swap none"])
def test_pages_are_as_they_were_left_with_many_seeds(space: Path, faults: str, threads: int, options: str) -> None:
    for seed in (21, 27):
        _run(space, faults, f"{seed} 300 {threads}", options, seconds=180)
