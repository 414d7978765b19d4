# SPDX-License-Identifier: Apache-2.0
"""Starts a program, plainly or behind a prefix such as `tmem run`, and tells what came of it.

Owns: one run: its answer (a digest of what it printed and of the files it made), its time, and how much anonymous
memory its whole tree had at once, looked at every 20 ms. Called by tests/programs and benches. Nothing is written
to a file that need not be: what a program prints is digested as it comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Job", "Ran", "launch", "tree"]

_SAMPLE = 0.02
_PIECE = 1 << 20
_TOLD = 4000


@dataclass(frozen=True, slots=True)
class Job:
    """A program's start: its words, the files that are part of its answer, and what is added to the environment.

    `client` talks to a server while it runs, ends it, and returns its part of the answer.
    """

    command: Sequence[str]
    outputs: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    client: Callable[[Path], str] | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a run: exit code (-15 for SIGTERM), answer, seconds, the tree's most anonymous bytes, last words.

    `late` says that it was ended because its time was over; `seconds` is then that time.
    """

    code: int
    answer: str
    seconds: float
    anonymous: int
    errors: str
    late: bool = False


def launch(job: Job, directory: Path, prefix: Sequence[str] = (), seconds: float = 300.0) -> Ran:
    """Run a job in `directory` behind `prefix`; end it and its tree after `seconds`. OSError where it cannot start."""
    for name in job.outputs:
        (directory / name).unlink(missing_ok=True)
    environment = os.environ | {"LC_ALL": "C"} | dict(job.environment or {})
    digest = hashlib.sha256()
    begin = time.monotonic()
    with (
        tempfile.TemporaryFile("w+b") as errors,
        subprocess.Popen(
            [*prefix, *job.command], cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=errors, start_new_session=True,
        ) as child,
    ):  # fmt: skip
        clock, sampler = _Clock(child.pid, seconds), _Sampler(child.pid)
        try:
            talk = _talk(job.client, directory, child.pid)
            while piece := os.read(child.stdout.fileno(), _PIECE) if child.stdout else b"":
                digest.update(piece)
            code = child.wait()
            said = talk()
        finally:
            clock.stop()  # what is left of the tree ends with this, too
            anonymous = sampler.stop()
        took = time.monotonic() - begin
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TOLD))
        words = errors.read().decode(errors="replace")
    digest.update(said.encode())
    for name in job.outputs:
        path = directory / name
        digest.update(path.read_bytes() if path.exists() else b"none")
    return Ran(code, digest.hexdigest(), took, anonymous, words, clock.rang)


def tree(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it, as far as they are there."""
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    for task in tasks:
        try:
            children = (task / "children").read_text(encoding="ascii").split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def _anonymous(pid: int) -> int:
    """Return the anonymous bytes in RAM of one process; 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def _talk(client: Callable[[Path], str] | None, directory: Path, pid: int) -> Callable[[], str]:
    """Let a client talk to the server, in a thread; return what waits for its answer. A failed client ends the run."""
    if client is None:
        return lambda: ""
    said: list[str] = []
    failed: list[BaseException] = []

    def talk() -> None:
        try:
            said.append(client(directory))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            failed.append(error)
            _end(pid)

    thread = threading.Thread(target=talk)
    thread.start()

    def wait() -> str:
        thread.join()
        if failed:
            raise RuntimeError(f"the client failed: {failed[0]!r}") from failed[0]
        return said[0]

    return wait


def _end(group: int) -> None:
    """Kill what is left of a session of our own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class _Clock:
    """Ends a session when its time is over; `stop` ends what is left of it."""

    def __init__(self, group: int, seconds: float) -> None:
        self.rang = False
        self._group = group
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        self.rang = True
        _end(self._group)

    def stop(self) -> None:
        self._timer.cancel()
        _end(self._group)


class _Sampler:
    """Looks at a tree again and again, for the most that it had at once."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(_SAMPLE):
            self._peak = max(self._peak, sum(map(_anonymous, tree(self._pid))))

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak
