# SPDX-License-Identifier: Apache-2.0
"""The daemon as a process: its sockets, its signals, its clock, its end.

Owns: these. Called by the command line and `python -m tmem.daemon`. Calls everything else of the daemon.
Law: a daemon that ends, by whatever signal, takes no memory from a guest. Two daemons never share a socket.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import signal
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from tmem import hostpath
from tmem.daemon.admin import Admin
from tmem.daemon.config import Config, ConfigError
from tmem.daemon.host import Host
from tmem.daemon.notify import Notifier
from tmem.daemon.rows import host_row
from tmem.daemon.server import Server
from tmem.daemon.state import State
from tmem.errors import TmemError
from tmem.units import format_size

__all__ = ["ADMIN_SUFFIX", "Daemon", "DaemonError", "serve"]

ADMIN_SUFFIX: Final = ".admin"
_LOG = logging.getLogger("tmem.daemon")
_BACKLOG: Final = 512
_TICK_SECONDS: Final = 1.0
_STATE_SUFFIX, _LOCK_SUFFIX = ".state", ".lock"
_LONGEST_PATH: Final = 100  # sun_path has 108 bytes, and the administrator's is longer


class DaemonError(TmemError, OSError):
    """The daemon cannot start here."""


def serve(read: Callable[[], Config]) -> int:
    """Run the daemon until it is told to end; return its exit code. `read` gives the configuration, again at SIGHUP."""
    config = read()
    _raise_descriptors()
    with asyncio.Runner() as runner:
        return runner.run(_serve(config, read))


async def _serve(config: Config, read: Callable[[], Config]) -> int:
    daemon = Daemon(config, asyncio.get_running_loop())
    daemon.start()
    try:
        await daemon.run(read)
    finally:
        daemon.stop()
    return 0


class Daemon:
    """A daemon with its sockets, in a loop that runs."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.path = os.path.abspath(config.socket or hostpath.default_path())  # noqa: PTH100 - a name, kept as text
        self._loop = loop
        self._lock = -1
        self._notifier = Notifier()
        self._metrics: Any = None
        self.state = State(self.path + _STATE_SUFFIX)
        self.host = Host(config, self.state)
        self.server = Server(self.host, loop)
        self.admin = Admin(self.server, loop)
        self._end = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Take the sockets. DaemonError where another daemon has them, or they cannot be made."""
        host = self.host
        if len(self.path.encode()) > _LONGEST_PATH:
            raise DaemonError(f"{self.path} is too long for a socket: use a shorter path")
        self._take_directory()
        try:
            self.state.open()
            host.ledger.reserved = min(self.state.unclaimed(), host.ledger.capacity)
            if host.config.metrics:
                from tmem.daemon.metrics import Metrics  # noqa: PLC0415 - of an extra, for those who want it

                self._metrics = Metrics(lambda: host_row(host), self._loop, host.config.metrics)
            self.admin.listen(_listen(self.path + ADMIN_SUFFIX, 0o600))
            self.server.listen(_listen(self.path, 0o666))
        except BaseException:
            self.stop()
            raise
        self._timers["reservations"] = self._loop.call_later(
            host.config.limits.claim_seconds, self.server.flow.end_reservations
        )
        self._tick()
        if self._notifier.watchdog:
            self._alive()

    async def run(self, read: Callable[[], Config]) -> None:
        """Serve until a signal comes."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload, read)
        status = f"{format_size(self.host.ledger.capacity)} for guests, policy {self.host.policy.name}, at {self.path}"
        _LOG.info("%s", status)
        if self.host.ledger.capacity // self.host.unit > self.host.most_extents:
            _LOG.warning(
                "this process may have %d extents open, less than the capacity: raise its limit of open files, or use "
                "a larger --extent",
                self.host.most_extents,
            )
        self._notifier.ready(status)
        await self._end.wait()
        _LOG.info("ending: guests keep what they hold")

    def stop(self) -> None:
        """Let go of everything. Guests keep what they hold, and the next daemon knows of it."""
        self._notifier.stopping()
        for timer in self._timers.values():
            timer.cancel()
        self.server.close()
        self.admin.close()
        if self._metrics is not None:
            self._metrics.close()
        self.state.close()
        if self._lock >= 0:
            for path in (self.path, self.path + ADMIN_SUFFIX):
                with suppress(FileNotFoundError):
                    os.unlink(path)  # noqa: PTH108 - as above
            os.close(self._lock)
            self._lock = -1

    def _tick(self) -> None:
        self._timers["tick"] = self._loop.call_later(_TICK_SECONDS, self._tick)
        try:
            self.server.flow.tick()
        except Exception:  # noqa: BLE001 - the next tick may do better
            self.host.counters["internal_errors"] += 1
            _LOG.exception("the clock met an error of ours")

    def _alive(self) -> None:
        self._notifier.alive()
        self._timers["watchdog"] = self._loop.call_later(self._notifier.watchdog / 3, self._alive)

    def _reload(self, read: Callable[[], Config]) -> None:
        self._notifier.reloading()
        try:
            config, stays = self.host.config.reloaded(read())
            self.host.reload(config)
        except ConfigError as error:
            _LOG.error("the configuration stays as it was: %s", error)
        except Exception:  # noqa: BLE001 - whatever it was, systemd waits for the end of this
            self.host.counters["internal_errors"] += 1
            _LOG.exception("the configuration stays as it was: an error of ours")
        else:
            _LOG.info("the configuration was read again")
            if stays:
                _LOG.warning("these change with a restart only: %s", ", ".join(stays))
        self._notifier.ready("reloaded")

    def _take_directory(self) -> None:
        """Make the directory, and be the only daemon of this path, for as long as this process lives."""
        directory = os.path.dirname(self.path)  # noqa: PTH120 - as above
        try:
            _make_directory(directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(self.path + _LOCK_SUFFIX, flags, 0o600)
        except OSError as error:
            raise DaemonError(f"no socket can be made in {directory} ({error.strerror}): use --socket PATH") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise DaemonError(f"a daemon runs at {self.path} already: stop it, or use another --socket PATH") from None
        if _answers(self.path):
            os.close(lock)
            raise DaemonError(f"somebody else answers at {self.path}: stop it, or use another --socket PATH")
        self._lock = lock


def _make_directory(directory: str) -> None:
    """Make the directory of a socket: root's is open to all, who may be its guests."""
    uid = os.geteuid()
    with suppress(FileExistsError):
        os.makedirs(os.path.dirname(directory), exist_ok=True)  # noqa: PTH103, PTH120 - a name, kept as text
        os.mkdir(directory, 0o700)  # noqa: PTH102 - as above
        if uid == 0:
            os.chmod(directory, 0o755)  # noqa: PTH101, S103 - whatever the umask is; guests look it up
        return
    about, name = os.stat(directory), os.lstat(directory)  # noqa: PTH116 - as above
    safe = {about.st_uid, name.st_uid} <= {0, uid} and (not about.st_mode & 0o022 or about.st_mode & stat.S_ISVTX)
    if not safe:
        raise DaemonError(
            f"{directory} can be written to by others, who could put a socket of theirs there: use --socket PATH"
        )


def _listen(path: str, mode: int) -> socket.socket:
    """Return a socket that listens at a path; one that a dead daemon left there goes."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _remove_socket(path)
        before = os.umask(0o777 & ~mode)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(_BACKLOG)
    except DaemonError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise DaemonError(f"no socket can be made at {path} ({error.strerror}): use --socket PATH") from None
    return sock


def _remove_socket(path: str) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise DaemonError(f"{path} is there and no socket: remove it, or use another --socket PATH")
        os.unlink(path)  # noqa: PTH108 - a name, kept as text


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(0)
        try:
            sock.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


def _raise_descriptors() -> None:
    """Take all descriptors this process may have: each extent is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
