# SPDX-License-Identifier: Apache-2.0
"""Where a daemon's socket is.

Owns: the places that are looked at, the check of the server's directory, and what the environment says of the server.
Called by guests, the daemon and operator. Calls nothing.
"""

from __future__ import annotations

import os
import stat

from tmem.errors import TmemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["default_path", "find", "of_guest", "trusted_uid"]

_LONGEST = 107
_UIDS = 1 << 32


def default_path() -> str:
    """Return where a daemon of this user listens, unless it is told another place."""
    return _places()[0] if os.geteuid() == 0 else _places()[1]


def find(host: str | os.PathLike[str] | None, env: Mapping[str, str] = os.environ) -> str | None:
    """Return the socket that `host` ("auto" or a path) means; None where "auto" finds none.

    TmemError where a socket cannot have that name.
    """
    if host is None:
        return None
    path = os.fspath(host)
    if path == "auto":
        path = env.get("TMEM_HOST") or next((place for place in _places() if _is_trusted(place)), "")
        if not path:
            return None
    path = os.path.abspath(path)  # noqa: PTH100 - a program may change its directory before it connects
    if len(os.fsencode(path)) > _LONGEST or "\0" in path:
        raise TmemError(f"{path} is no name of a socket, which has at most {_LONGEST} bytes: name the daemon's")
    return path


def of_guest(host: str | os.PathLike[str] | None, name: str | None) -> tuple[str, str | None, int | None] | None:
    """Return what a guest's connection is told: the socket, its name, whom to trust; None where there is no daemon."""
    path = find(host)
    return None if path is None else (path, name, trusted_uid())


def trusted_uid(env: Mapping[str, str] = os.environ) -> int | None:
    """Return whom a guest lets the daemon run as, beside root and its own user: TMEM_HOST_UID. TmemError for no uid."""
    text = env.get("TMEM_HOST_UID")
    if not text:
        return None
    if not text.isdecimal() or int(text) >= _UIDS - 1:
        raise TmemError(f"TMEM_HOST_UID is {text!r}: set it to the number of a user, or unset it")
    return int(text)


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
