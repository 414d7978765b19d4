# SPDX-License-Identifier: Apache-2.0
"""A daemon as a process of its own, to be killed and started again, and programs that are its guests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.hostguest import RawAdmin

SECONDS = 20.0
ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(ROOT / "tests"), str(ROOT)])}


class KilledDaemon:
    """`tmem daemon` at `directory`/host.sock."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.path = directory / "host.sock"
        self._flags = flags or ("--capacity", "256M", "--extent", "1M")
        self._log = (directory / "daemon.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tmem.daemon", "--socket", str(self.path), *self._flags]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=ENV)
        until(self._answers, "the daemon answers")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, Path(self._log.name).read_text(encoding="utf-8")
        try:
            self.ask("ping")
        except OSError:
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(SECONDS)
            self._process = None

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def ask(self, verb: str, **arguments: Any) -> Any:
        with RawAdmin(self.path) as admin:
            return admin.ask(verb, **arguments)

    def guests(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.ask("list", long=True)["guests"]
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._log.close()


def until(holds: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.01)
