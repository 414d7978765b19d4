# SPDX-License-Identifier: Apache-2.0
"""Many guests, each a process of its own with data in leased memory, that a test tells what to do over a pipe.

They are forked from a nursery that has everything imported and no memory of ours yet, so that two hundred of them start
in seconds. A guest answers each order with a line of JSON; a guest that finds a wrong byte says so and ends with 3.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NURSERY = Path(__file__).parent / "nursery.py"


class Guest:
    """One guest, seen from the test."""

    def __init__(self, pid: int, read: int, write: int) -> None:
        self.pid = pid
        self._read, self._write = read, write
        self._rest = b""
        self.alive = True

    def fileno(self) -> int:
        return self._read

    def tell(self, order: str, **arguments: Any) -> None:
        """Send an order without waiting for the answer."""
        os.write(self._write, json.dumps({"do": order, **arguments}).encode() + b"\n")

    def answer(self, seconds: float = 60.0) -> dict[str, Any]:
        """Return the next answer."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise AssertionError(f"guest {self.pid} did not answer within {seconds:.0f} s")
                got = os.read(self._read, 65536)
                if not got:
                    raise AssertionError(f"guest {self.pid} ended instead of answering")
                self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        if "wrong" in told:
            raise AssertionError(f"guest {self.pid}: {told['wrong']}")
        return told

    def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Send an order and return its answer."""
        self.tell(order, **arguments)
        return self.answer()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it."""
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.close()

    def close(self) -> None:
        """Let its pipes go: it ends by itself when it reads the end."""
        if self.alive:
            self.alive = False
            os.close(self._read)
            os.close(self._write)


class Flock:
    """A nursery and the guests it brought forth."""

    def __init__(self, directory: Path, **memory: Any) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, str(NURSERY), json.dumps({k: str(v) for k, v in memory.items()})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._count = 0
        self.guests: list[Guest] = []

    def add(self, count: int = 1, **memory: Any) -> list[Guest]:
        """Bring forth so many guests, with other arguments for their memory where some are given."""
        made = []
        for _ in range(count):
            self._count += 1
            paths = [self._directory / f"guest-{self._count}.{end}" for end in ("in", "out")]
            for path in paths:
                os.mkfifo(path)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            order = {"in": str(paths[0]), "out": str(paths[1]), "memory": {k: str(v) for k, v in memory.items()}}
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
            write = os.open(paths[0], os.O_WRONLY | os.O_CLOEXEC)
            read = os.open(paths[1], os.O_RDONLY | os.O_CLOEXEC)
            for path in paths:
                path.unlink()
            made.append(Guest(pid, read, write))
        self.guests += made
        return made

    def all(self, order: str, guests: Iterable[Guest] | None = None, **arguments: Any) -> list[dict[str, Any]]:
        """Tell all guests the same, and return their answers in order."""
        chosen = self.guests if guests is None else list(guests)
        for guest in chosen:
            guest.tell(order, **arguments)
        return [guest.answer(180.0) for guest in chosen]

    def kill(self, guest: Guest) -> None:
        """`kill -9`."""
        guest.kill()
        self.guests.remove(guest)

    def end(self) -> None:
        """End all guests and the nursery."""
        for guest in self.guests:
            guest.close()
        self.guests = []
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()
