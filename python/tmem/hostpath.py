# SPDX-License-Identifier: Apache-2.0
"""Where a daemon's socket is.

Owns: the places that are looked at, and the check of the server's directory. Called by guests, the daemon and operator.
Calls nothing.
"""

from __future__ import annotations

import os
import stat

from tmem.errors import TmemError

__all__ = ["default_path", "find"]


def default_path() -> str:
    """Return where a daemon of this user listens, unless it is told another place."""
    return _places()[0] if os.geteuid() == 0 else _places()[1]


def find(host: str | None) -> str | None:
    """Return the socket that `host` ("auto" or a path) means; None where "auto" finds none."""
    if host is None:
        return None
    if host != "auto":
        return host
    if named := os.environ.get("TMEM_HOST"):
        return named
    return next((path for path in _places() if _is_trusted(path)), None)


def _places() -> list[str]:
    uid = os.geteuid()
    own = os.environ.get("XDG_RUNTIME_DIR")
    return ["/run/tmem/tmem.sock", *([f"{own}/tmem/tmem.sock"] if own else []), f"/tmp/tmem-{uid}/tmem.sock"]  # noqa: S108


def _is_trusted(path: str) -> bool:
    """Return whether a socket is there, in a directory that root or this user has."""
    try:
        return (
            stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116
            and os.stat(os.path.dirname(path)).st_uid in {0, os.geteuid()}  # noqa: PTH116, PTH120
        )
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise TmemError(f"{path} may not be looked at ({error.strerror}): name a socket") from None
