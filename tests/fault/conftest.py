# SPDX-License-Identifier: Apache-2.0
"""Faults are made in interpreters of their own: what goes wrong there must end there, with a report, and soon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from tmem import _core

Ran = subprocess.CompletedProcess[str]
Child = Callable[..., Ran]
Started = subprocess.Popen[str]
Starter = Callable[..., Started]

OPENING = """
import json, os, resource, signal, sys, warnings
import numpy as np
import tmem
from tmem import _core

entry, directory = sys.argv[1:3]

def noise(seed, count=1 << 18):
    return np.random.default_rng(seed).integers(0, 1 << 63, count)

def say(**told):
    sys.stdout.write(json.dumps(told) + chr(10))  # one piece, also where two processes write
    sys.stdout.flush()

def own_files(word):
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if word in os.readlink(f"/proc/self/fd/{name}"):
                found.append(int(name))
        except OSError:
            pass  # the directory's own descriptor, closed by now
    return found
"""


@pytest.fixture(params=["signal", "thread"])
def entry(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := cast("dict[str, str]", _core.probe()["entries"])[name]:
        pytest.skip(f"the {name} entry cannot be used here: {reason}")
    return name


@pytest.fixture
def start(tmp_path: Path) -> Starter:
    """Start a child on a piece of code; it gets the entry and a directory for its swap device."""

    def starter(code: str, entry: str, directory: Path = tmp_path) -> Started:
        return subprocess.Popen(
            [sys.executable, "-c", OPENING + code, entry, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )

    return starter


@pytest.fixture
def child(start: Starter) -> Child:
    """Run a child to its end; one that hangs is killed and fails the test."""

    def runner(code: str, entry: str, **options: Path) -> Ran:
        with start(code, entry, **options) as process:
            try:
                out, err = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess([], process.returncode, out, err)

    return runner


@pytest.fixture
def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
