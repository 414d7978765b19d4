# SPDX-License-Identifier: Apache-2.0
"""`tmem run` where faults and guarded system calls come as signals: threads that block every signal.

The signal entry is guarded whatever the privilege, so no test here gives privilege up. Needs gcc and that entry;
skipped by name where one is missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import refusal

SOURCE = Path(__file__).with_name("blocks.c")
TMEM = Path(sysconfig.get_path("scripts"), "tmem")


def _run(home: Path, how: str) -> tuple[subprocess.CompletedProcess[str], dict[str, float]]:
    """Run the program in a quarter of the memory that it wants; return what came of it and its report."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc: install the package gcc")
    if reason := refusal("signal"):
        pytest.skip(f"the signal entry cannot be used here: {reason}")
    assert TMEM.exists(), f"no {TMEM}: make build"
    program, report = home / "blocks", home / "report.json"
    subprocess.run([gcc, "-O1", "-Wall", "-Werror", "-pthread", "-o", program, SOURCE], check=True, timeout=60)
    options = ["--ram", "32M", "--faults", "signal", "--json", str(report)]
    command = [str(TMEM), "run", *options, "--", str(program), "128", how]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    return ran, json.loads(report.read_text(encoding="utf-8"))


def test_a_thread_that_blocks_all_signals_uses_paged_memory(tmp_path: Path) -> None:
    ran, told = _run(tmp_path, "library")
    assert (ran.returncode, ran.stdout.strip()) == (0, "wrong 0"), ran.stderr
    assert told["evictions"] > 0


@pytest.mark.long
def test_a_thread_that_cannot_be_guarded_is_told_of_once(tmp_path: Path) -> None:
    ran, told = _run(tmp_path, "raw")
    assert (ran.returncode, ran.stdout.strip()) == (3, "refused"), ran.stderr
    assert told["evictions"] == 0
    assert ran.stderr.count("blocks the signal SIGSYS") == 1, ran.stderr
    assert "/dev/userfaultfd" in ran.stderr
