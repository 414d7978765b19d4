# SPDX-License-Identifier: Apache-2.0
"""A Python backend in a process of its own, so that a fault never needs the GIL of the process that faults (law 17).

Owns: starting and ending that process. Called by memory. Calls nothing that pages. The process is backendserve's; it
has its own session (Ctrl-C is the guest's) and its own memory, which no budget of the guest counts.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import time
import weakref
from collections.abc import Iterable, Sequence
from multiprocessing import spawn
from types import TracebackType
from typing import Self

from tmem import _core
from tmem.backends import DEFAULT_PAGES, NativeBackend
from tmem.errors import TmemError
from tmem.ops import FrontswapOps

__all__ = ["ANSWER_SECONDS", "READY", "SERVING", "BackendProcess", "ProcessBackend", "end_all", "start_all"]

ANSWER_SECONDS = 10.0
"""A process that takes longer for one page counts as gone."""
READY = b"tmem backend ready"
SERVING = False
"""Whether this process is a backend's. Set by backendserve."""

_START_SECONDS = 60.0
_END_SECONDS = 5.0
_NATIVE = ("store", "plain", "refuse")

_RUNNING: list[BackendProcess] = []  # a Memory may go before its arrays do: whoever starts the next one reaps
_CHANNELS: weakref.WeakSet[_core.Backend] = weakref.WeakSet()  # those of a pager are the pager's to close


class BackendProcess:
    """A process with a backend in it, and the socket to it.

    Raises TypeError where the backend cannot be pickled or made there, TmemError where the process does not start.
    """

    def __init__(self, ops: FrontswapOps) -> None:
        payload = _pickled(ops)
        _RUNNING[:] = [one for one in _RUNNING if not one.is_over()]
        self.kind = type(ops).__qualname__
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            source = os.memfd_create("tmem-backend")
            try:
                os.write(source, payload)
                os.lseek(source, 0, os.SEEK_SET)
                self.pid = _spawn(source, theirs.fileno())
            except BaseException:
                self.socket.close()
                raise
            finally:
                os.close(source)
        self.owner = os.getpid()
        self._ended = False
        _RUNNING.append(self)
        try:
            self._await_ready()
        except BaseException:
            self.end(0.0)
            raise

    def _await_ready(self) -> None:
        self.socket.settimeout(_START_SECONDS)
        try:
            told = self.socket.recv(1 << 16)
        except TimeoutError:
            raise TmemError(f"the process of backend {self.kind} did not start in {_START_SECONDS:.0f} s") from None
        self.socket.settimeout(None)
        if told != READY:
            why = told.decode(errors="replace") or "it ended before it said anything; see its standard error"
            raise TypeError(
                f"backend {self.kind} cannot be made in a process of its own: {why}. Define its class in a module "
                "that a fresh interpreter can import"
            )

    def end(self, patience: float = _END_SECONDS) -> None:
        """Let go of the socket, wait for the process to end by itself, kill it after `patience` seconds. Reap it."""
        self.socket.close()
        if self._ended or os.getpid() != self.owner:
            return  # a forked child's parent sees to it
        self._ended = True
        deadline = time.monotonic() + patience
        while not self._reaped():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return
            time.sleep(0.001)

    def is_over(self) -> bool:
        """Whether the process has ended, or is none of this process's. Reaps it."""
        if not self._ended:
            self._ended = os.getpid() != self.owner or self._reaped()
        return self._ended

    def _reaped(self) -> bool:
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True  # the program waits for all children itself


class ProcessBackend(NativeBackend):
    """Any backend, run in a process of its own, as a Memory runs those it is given; for a Frontswap or a test.

    `seconds` is the longest wait for one answer; `pages` is how many it may be asked to keep. close() ends the process.
    """

    def __init__(self, ops: FrontswapOps, *, pages: int = DEFAULT_PAGES, seconds: float = ANSWER_SECONDS) -> None:
        self._process = BackendProcess(ops)
        try:
            channel = self._process.socket.fileno()
            super().__init__(_core.Backend("process", pages=pages, fd=channel, limit_ms=int(seconds * 1000)))
        except BaseException:
            self._process.end(0.0)
            raise
        self._process.socket.close()
        self._end = weakref.finalize(self, _end, self.core, self._process)
        _CHANNELS.add(self.core)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def close(self) -> None:
        """End the process; its pages go with it. Twice does no harm."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(core: _core.Backend, process: BackendProcess) -> None:
    if os.getpid() == process.owner:
        core.close()
        process.end()


def _let_go_in_child() -> None:
    for core in _CHANNELS:
        core.forked()


os.register_at_fork(after_in_child=_let_go_in_child)


def start_all(ops: Sequence[FrontswapOps | str] | None) -> list[BackendProcess | str]:
    """Start a process for each backend of `ops` that is not named. None is the page store alone.

    Raises TypeError for what is no backend or cannot be sent to a process, ValueError for an unknown name.
    """
    started: list[BackendProcess | str] = []
    if isinstance(ops, str | FrontswapOps):
        raise TypeError("ops must be a list of backends, asked in order: put this one in brackets")
    try:
        for one in ("store",) if ops is None else ops:
            # One by one: those that have started are ended where the next does not.
            started.append(_known(one) if isinstance(one, str) else BackendProcess(one))  # noqa: PERF401
    except BaseException:
        end_all(started, 0.0)
        raise
    return started


def _known(name: str) -> str:
    if name not in _NATIVE:
        raise ValueError(f"unknown backend {name!r}: use {', '.join(_NATIVE)}, or a tmem.FrontswapOps")
    return name


def end_all(started: Iterable[BackendProcess | str], patience: float = _END_SECONDS) -> None:
    """End every process of them."""
    for one in started:
        if isinstance(one, BackendProcess):
            one.end(patience)


def _pickled(ops: FrontswapOps) -> bytes:
    if not isinstance(ops, FrontswapOps):
        raise TypeError(
            f"a backend must be a tmem.FrontswapOps or a name, not {type(ops).__name__}: derive one from it"
        )
    if SERVING:
        raise RuntimeError(
            "a backend's process starts another one: it has imported the program's main module, which makes a Memory. "
            'Put what the program does under `if __name__ == "__main__":`'
        )
    preparation = spawn.get_preparation_data("tmem-backend")
    preparation.pop("authkey", None)  # not to be sent, and of no use there
    try:
        return pickle.dumps(preparation) + pickle.dumps(ops)
    except Exception as error:
        raise TypeError(
            f"backend {type(ops).__qualname__} cannot be pickled for a process of its own: {error}. Keep what "
            "cannot be sent out of it until init() is called, which happens over there"
        ) from error


def _spawn(source: int, channel: int) -> int:
    """Start the interpreter with `source` as its standard input; the number of `channel` is the same there."""
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "tmem.backendserve", str(channel)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, channel, channel)],
        setsid=True,
    )
