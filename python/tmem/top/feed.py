# SPDX-License-Identifier: Apache-2.0
"""Where top's numbers come from: asks the daemon, keeps the readings before, and bears its going away.

Owns: the connection, the last readings. Called by app, in a thread beside the terminal's, and by
cli.top. Calls operator. Lock: one, held while the daemon is asked, at most as long as the operator waits.
"""

from __future__ import annotations

import threading
import time

from tmem.errors import TmemError
from tmem.operator import HostAwayError, Operator
from tmem.top.model import LEAST_SECONDS, Reading, View, view_of

__all__ = ["Feed"]


class Feed:
    """The daemon's readings, one after the other."""

    def __init__(self, path: str | None) -> None:
        self._operator = Operator(path)
        self._before: list[Reading] = []  # the oldest first; one is as old as rates need, or all are younger
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """The socket that was asked."""
        return self._operator.path

    def read(self) -> View:
        """Return what is there now. TmemError where the daemon does not tell; the next call tries anew."""
        with self._lock:
            try:
                seen = self._operator.list()
            except TmemError:
                self._before.clear()  # no rate over the time in which nobody counted
                raise
            now = Reading(time.monotonic(), seen)
            while len(self._before) > 1 and now.when - self._before[1].when >= LEAST_SECONDS:
                del self._before[0]
            view = view_of(now, self._before[0] if self._before else None)
            self._before.append(now)
            return view

    def freeze(self, guest: int) -> str:
        """Freeze a guest, and return what to say of it."""
        return self._do("freeze", guest, "frozen: it keeps what it has, and gets no more")

    def thaw(self, guest: int) -> str:
        """Thaw a guest."""
        return self._do("thaw", guest, "thawed")

    def end(self, guest: int) -> str:
        """Take back all that a guest holds."""
        return self._do("destroy", guest, "ended: what it held is the host's again", force=True)

    def close(self) -> None:
        """Hang up, also where an answer is waited for."""
        self._operator.interrupt()
        with self._lock:
            self._operator.close()

    def _do(self, verb: str, guest: int, done: str, **more: object) -> str:
        with self._lock:
            if not self._before:  # and the numbers of a daemon that was started anew may be other guests'
                raise HostAwayError("the daemon is away: wait until it is back")
            self._operator.ask(verb, guest=str(guest), **more)
        return f"guest {guest} is {done}"
