# SPDX-License-Identifier: Apache-2.0
"""Memory that the machine really has: a host takes free memory back from its guests, and gives the first pages slowly.

Owns: asking for it before a measurement, so that all that is compared finds it alike. Called by demo and bench.
"""

from __future__ import annotations

import numpy as np

__all__ = ["warm"]


def warm(nbytes: int) -> None:
    """Take so much memory, write to it, and free it."""
    np.ones(nbytes // 8)
