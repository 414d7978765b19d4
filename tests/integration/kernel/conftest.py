# SPDX-License-Identifier: Apache-2.0
"""Child interpreters for what must not happen in the one that runs the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 100
Run = Callable[..., subprocess.CompletedProcess[str]]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter to its end, with a folder for its files that nobody can use too."""
    command = [sys.executable, "-X", "faulthandler", *arguments]
    with tempfile.TemporaryDirectory(prefix="tmem-kernel-") as folder:
        Path(folder).chmod(0o777)
        out, err, code = _end_of(command, folder)
    return subprocess.CompletedProcess(command, code, out, err)


def _end_of(command: list[str], folder: str) -> tuple[str, str, int]:
    """Wait for a command. One that hangs is asked for its tracebacks, then ended."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": folder},
    ) as process:
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            try:
                out, err = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
            pytest.fail(f"no end within {LIMIT} s\n{out}\n{err}")
    return out, err, process.returncode


@pytest.fixture
def run() -> Run:
    return start


@pytest.fixture(params=["root", pytest.param("nobody", marks=pytest.mark.root)])
def user(request: pytest.FixtureRequest) -> str:
    """Who runs the child: whoever runs the tests, or a user without any privilege."""
    name: str = request.param
    if name == "nobody" and os.geteuid() != 0:
        pytest.skip("needs root, to become nobody")
    return name
