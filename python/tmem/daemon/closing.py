# SPDX-License-Identifier: Apache-2.0
"""The closing of what others sent: it can take as long as they like, so each user's has a thread of its own.

Owns: those threads, and the descriptors that wait for them. Called by connection and server. Calls the kernel.
A descriptor can be a socket that lingers, or a file of a file system that answers when it wants to, and the kernel
waits for it in whoever closes it. Such descriptors may also lie unread in a connection, so that its end is such a
close too.
Law: nobody's descriptors hold up the daemon, or what another user sent.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from typing import Final

__all__ = ["MOST_WAITING", "close", "waiting"]

MOST_WAITING: Final = 64
"""Who has more that does not close is let in no more."""

_lock: Final = threading.Lock()
_waiting: Final[dict[int, deque[int]]] = {}  # user -> descriptors, the first of which is being closed


def close(fds: list[int], uid: int) -> None:
    """Close descriptors that a user sent, soon. The list is emptied."""
    if not fds:
        return
    with _lock:
        found = _waiting.get(uid)
        if found is not None:
            found.extend(fds)
        else:
            _waiting[uid] = deque(fds)
            threading.Thread(target=_work, args=(uid,), name=f"close-{uid}", daemon=True).start()
    fds.clear()


def waiting(uid: int) -> int:
    """Return how many descriptors of a user are not closed yet."""
    found = _waiting.get(uid)
    return 0 if found is None else len(found)


def _work(uid: int) -> None:
    mine = _waiting[uid]
    while True:
        with suppress(OSError):
            os.close(mine[0])
        with _lock:
            mine.popleft()
            if not mine:
                del _waiting[uid]
                return
