# SPDX-License-Identifier: Apache-2.0
"""What becomes of a page that is offered: stored, or refused for a reason.

Owns: the outcomes and the reasons with their codes. Called by pool and frontswap; codes come from the native module.
Law 1: a refusal is a normal answer, at any time, for any of these reasons. It is false in a condition, and no error.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["OUTCOMES", "STORED", "Outcome", "Reason", "Refused", "Stored", "code_of"]

STORED = 0
"""The code of a stored page where outcomes come as numbers; every other code is that of a `Reason`."""


class Reason(enum.IntEnum):
    """Why a page was refused. The lower-case name is the counter's in every statistic."""

    FROZEN = 1  # the pool is frozen: it gives and flushes, and takes nothing
    STORE_FULL = 2  # the store is at its capacity
    INCOMPRESSIBLE = 3  # the page does not shrink below 7/8, and such pages are not kept
    INDEX_FULL = 4  # no room for another object or page in the index
    NO_AREA = 5  # the area was never initialised, or was invalidated since
    OUT_OF_RANGE = 6  # the page number lies outside its area
    SWAP_FULL = 7  # the swap device is at its cap, or its file system is full
    SWAP_ERROR = 8  # the swap device failed to write
    UNWILLING = 9  # nobody was asked, or whoever was asked gives no reason
    OVER_CAP = 10  # the guest is at its cap
    BACKEND_FAILED = 11  # the backend raised an exception, or its process is gone

    @property
    def counter(self) -> str:
        """The name of its counter."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Stored:
    """The page was taken. True in a condition."""

    def __bool__(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True)
class Refused:
    """The page was not taken, and the caller still has it. False in a condition."""

    reason: Reason = Reason.UNWILLING  # why; each has a counter

    def __bool__(self) -> Literal[False]:
        return False


Outcome: TypeAlias = Stored | Refused
"""What becomes of a page that is offered."""

OUTCOMES: tuple[Outcome, ...] = (Stored(), *map(Refused, Reason))
"""The outcome of each code."""


def code_of(outcome: object) -> int:
    """Return the code of what a backend answered: an Outcome, or anything that is true where the page was taken."""
    if isinstance(outcome, Refused):
        return int(outcome.reason)
    return STORED if outcome else int(Reason.UNWILLING)
