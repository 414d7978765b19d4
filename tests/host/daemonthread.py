# SPDX-License-Identifier: Apache-2.0
"""A daemon in a thread of the test, so that a test can look into it and play its guests at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.hostguest import RawAdmin, RawGuest
from tmem.daemon.config import Config, parse
from tmem.daemon.host import Host
from tmem.daemon.main import Daemon

T = TypeVar("T")
SECONDS = 10.0


class ThreadDaemon:
    """A daemon at `directory`/host.sock. `policy` takes the place of the one with that name."""

    def __init__(
        self, directory: Path, text: str = "", *, policy: Any = None, policy_name: str = "weighted", **told: Any
    ) -> None:
        self.path = directory / "host.sock"
        values = {"socket": str(self.path), "capacity": "64M", "extent": "1M", "policy": policy_name} | told
        self.config: Config = parse(text, told=values)
        self._policy = policy
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._error: BaseException | None = None
        self.daemon: Daemon

    @property
    def host(self) -> Host:
        return self.daemon.host

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        self.daemon = Daemon(self.config, asyncio.get_running_loop())
        if self._policy is not None:
            self.daemon.host.policy = self._policy
        self.daemon.start()
        self._started.set()
        try:
            await self._stop.wait()
        finally:
            self.daemon.stop()

    def call(self, work: Callable[[], T]) -> T:
        """Do something in the daemon's thread."""

        async def there() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result(SECONDS)

    def pause(self, seconds: float) -> None:
        """Let the daemon do nothing for a while, as if its machine was busy."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)

    def wait_until(self, holds: Callable[[], bool], what: str = "it to happen") -> None:
        """Wait until something holds, as seen in the daemon's thread."""
        end = time.monotonic() + SECONDS
        while not self.call(holds):
            assert time.monotonic() < end, f"waited for {what}"
            time.sleep(0.005)

    def guest(self, name: str = "raw") -> RawGuest:
        return RawGuest(self.path, name)

    def admin(self) -> RawAdmin:
        return RawAdmin(self.path)

    def ask(self, verb: str, **arguments: Any) -> Any:
        with self.admin() as admin:
            return admin.ask(verb, **arguments)

    def start(self) -> Self:
        self._thread.start()
        assert self._started.wait(SECONDS)
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SECONDS)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            broken = self.call(self.host.check)
            internal = self.call(lambda: self.host.counters["internal_errors"])
            self.stop()
            assert broken == []
            assert internal == 0
        else:
            self.stop()
