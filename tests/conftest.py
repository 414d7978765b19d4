# SPDX-License-Identifier: Apache-2.0
"""What every kind of test may use: the fault entries of this machine, root, and work done in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tmem import _core

Run = Callable[..., dict[str, Any]]


def refusal(entry: str) -> str:
    """Return why an entry cannot be used here; nothing when it can."""
    return cast("dict[str, str]", _core.probe()["entries"])[entry]


@pytest.fixture(params=["signal", "thread"])
def entry(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := refusal(name):
        pytest.skip(f"the {name} entry cannot be used here: {reason}")
    return name


@pytest.fixture(scope="session")
def entries() -> list[str]:
    """The fault entries that this machine permits."""
    return [entry for entry in ("signal", "thread") if not refusal(entry)]


@pytest.fixture
def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def run_worker() -> Run:
    """Run a script with its arguments as JSON in a new interpreter; return the JSON of its last line.

    A worker that ends in any other way, or not in time, fails the test with all that is known of it.
    """

    def run(script: Path, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
        command = [sys.executable, "-X", "faulthandler", str(script), json.dumps(arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except BaseException as error:
                where = _where_threads_are(process.pid)
                process.send_signal(signal.SIGABRT)  # faulthandler tells where Python is
                _, err = _last_words(process)
                if isinstance(error, subprocess.TimeoutExpired):
                    pytest.fail(f"no end after {seconds} s with {arguments}\n{where}\n{err}")
                raise
        if process.returncode != 0:
            pytest.fail(f"ended with {process.returncode}: {arguments}\n{out}\n{err}")
        return cast("dict[str, Any]", json.loads(out.splitlines()[-1]))

    return run


def _last_words(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what a process that was asked to end still says."""
    try:
        return process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def _where_threads_are(pid: int) -> str:
    """Tell where in the kernel each thread of a process is, as far as that may be read."""
    told = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        told.append(f"thread {task.name}")
        for name in ("comm", "syscall", "wchan", "stack"):
            try:
                told.append(f"  {name}: {(task / name).read_text().strip()}")
            except OSError as error:
                told.append(f"  {name}: {error.strerror}")
    return "\n".join(told)
