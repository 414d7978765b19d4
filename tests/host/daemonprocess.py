# SPDX-License-Identifier: Apache-2.0
"""A daemon in a process of its own, for tests: started, killed, started again on the same socket, and asked.

What it holds is read from outside: the blocks of the memfds among its descriptors, and the memory it takes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tmem.operator import Operator

SECONDS = 30.0


class Daemon:
    """`python -m tmem.daemon`, from its start to its end."""

    def __init__(self, directory: Path, *arguments: str, config: str = "") -> None:
        self.path = directory / "host.sock"
        self.log = directory / "daemon.log"
        self._arguments = [*arguments]
        if config:
            file = directory / "host.toml"
            file.write_text(config, encoding="utf-8")
            self._arguments += ["--config", str(file)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "tmem.daemon", "--socket", str(self.path), *self._arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._answers, "the daemon to answer", self._process)
        return self

    def _answers(self) -> bool:
        try:
            self.ask("ping")
        except Exception:  # noqa: BLE001 - not there yet, in whatever way
            return False
        return True

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Return what the administrator's socket answers."""
        with Operator(str(self.path)) as operator:
            return operator.ask(verb, **arguments)

    def host(self) -> dict[str, Any]:
        """Return what it tells of the host."""
        told: dict[str, Any] = self.ask("list", guest=None, long=False)["host"]
        return told

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it as an operator would; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(SECONDS)

    def blocks(self) -> int:
        """Return the bytes of all memfds among its descriptors."""
        total = 0
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                if str(entry.readlink()).startswith("/memfd:tmem-extent"):
                    total += entry.stat().st_blocks * 512
            except FileNotFoundError:
                continue  # closed meanwhile
        return total

    def descriptors(self) -> int:
        """Return how many descriptors it has."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def own_memory(self) -> int:
        """Return the bytes of its anonymous memory: what is its own, extents not among it."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon in /proc")

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stop() != 0 and error is None:
            raise AssertionError(f"the daemon ended badly:\n{self.said()}")


def wait_for(
    holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None, seconds: float = SECONDS
) -> None:
    """Wait until something holds; AssertionError where it does not in time, or the process ends."""
    end = time.monotonic() + seconds
    while not holds():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"waiting for {what}: the process ended with {process.returncode}")
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)
