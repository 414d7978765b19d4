# SPDX-License-Identifier: Apache-2.0
"""What a backend raised, in the log: seldom enough to be read.

Owns: the logger `tmem` and how often it speaks. Called by frontswap (through the native module) and by a backend's
process. Law: never the contents of a page.
"""

from __future__ import annotations

import logging
import time
import traceback

__all__ = ["QUIET_SECONDS", "report"]

QUIET_SECONDS = 30.0
"""The quiet time between two lines about one verb of one kind of backend."""

_LOG = logging.getLogger("tmem")
_next: dict[tuple[str, str], float] = {}
_untold: dict[tuple[str, str], int] = {}

_MEANS = {"store": "the page was offered to the next backend", "load": "the page is lost, unless it is elsewhere too"}


def report(verb: str, backend: object, error: BaseException) -> None:
    """Log that `verb` of `backend` raised `error`: at most a line in QUIET_SECONDS for each kind, the rest counted.

    Its type and place are told, not its text, which may quote the page.
    """
    key = (type(backend).__qualname__, verb)
    now = time.monotonic()
    if now < _next.get(key, 0.0):
        _untold[key] = _untold.get(key, 0) + 1
        return
    _next[key] = now + QUIET_SECONDS
    more = _untold.pop(key, 0)
    _LOG.warning(
        "%s of backend %s raised %s in %s: %s%s",
        verb,
        key[0],
        type(error).__name__,
        _place(error),
        _MEANS.get(verb, "the hook goes on without it"),
        f" ({more} more since the last line)" if more else "",
    )


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "native code"
