# SPDX-License-Identifier: Apache-2.0
"""What systemd is told: ready, stopping, still alive.

Owns: the socket of NOTIFY_SOCKET. Called by main. Calls nothing. Without systemd every call does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["Notifier"]


class Notifier:
    """Tells the service manager that started this process, if one did."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        given = os.environ if env is None else env
        path = given.get("NOTIFY_SOCKET", "")
        self._path = "\0" + path[1:] if path.startswith("@") else path
        mine = given.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
        usec = given.get("WATCHDOG_USEC", "")
        self.watchdog = int(usec) / 1e6 if self._path and mine and usec.isdecimal() else 0.0
        """Seconds within which it wants a sign of life; 0 for never."""

    def ready(self, status: str) -> None:
        """Tell that guests can connect."""
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Tell that the end has begun."""
        self._tell("STOPPING=1")

    def reloading(self) -> None:
        """Tell that the configuration is being read again; `ready` ends it."""
        self._tell("RELOADING=1")

    def alive(self) -> None:
        """Tell that this process is not stuck."""
        if self.watchdog:
            self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        if not self._path:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.settimeout(0)
            link.connect(self._path)
            link.send(text.encode())
