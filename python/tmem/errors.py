# SPDX-License-Identifier: Apache-2.0
"""The exceptions and warnings of tmem, the small tree that a caller can catch.

Owns: the names only. Raised by every floor above, and by the native module, which looks them up here by name.
Law: each message says what was asked, what stood against it, and the next step.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "ClosedError",
    "GuardWarning",
    "KernelUnsupported",
    "OvershootWarning",
    "PageLostError",
    "PoolError",
    "SaveError",
    "SizeError",
    "SwapError",
    "TmemError",
    "TmemWarning",
    "warning_of",
]


class TmemError(Exception):
    """Everything that tmem raises on its own account."""


class SizeError(TmemError, ValueError):
    """A size that cannot be meant: negative, zero, misspelt, below the minimum, above the machine."""


class BudgetError(TmemError, MemoryError):
    """The memory asked for does not fit: no room in the budget, nor below it."""


class ClosedError(TmemError, ValueError):
    """The Memory was closed, and its arrays stay valid; or the Pool was destroyed, and its pages are gone."""


class PoolError(TmemError, RuntimeError):
    """A pool or a guest cannot be made: the host has as many as it can have."""


class PageLostError(TmemError):
    """A page that was stored cannot be given back as it was. Never other bytes instead."""


class SaveError(TmemError, OSError):
    """Pools cannot be saved to a file, or the file is damaged, or of a version that this tmem does not read."""


class KernelUnsupported(TmemError, OSError):  # noqa: N818 - names the cause, as OSError's own children do
    """This kernel, or what this process may do with it, cannot serve page faults; `tmem doctor` tells why."""


class SwapError(TmemError, OSError):
    """The swap device cannot be made where, or as large as, it was asked for."""


class TmemWarning(RuntimeWarning):
    """Something the caller should know that stopped nothing."""


class OvershootWarning(TmemWarning):
    """The budget is overshot, because a page found no place below RAM. Nothing is lost."""


class GuardWarning(TmemWarning):
    """System calls on paged memory are guarded less than fully from here on."""


_BY_WORDS = {"overshot": OvershootWarning, "swap device": OvershootWarning, "system call": GuardWarning}


def warning_of(notice: str) -> type[TmemWarning]:
    """Return the warning class of a notice of the native module, which are texts made to be read."""
    return next((kind for words, kind in _BY_WORDS.items() if words in notice), TmemWarning)
