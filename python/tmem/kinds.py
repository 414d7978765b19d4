# SPDX-License-Identifier: Apache-2.0
"""The types of what a caller may give: sizes, and swap devices.

Owns: these names. Used in signatures by whoever takes a size or a swap device. Apart from units and swapdir, which say
what the values mean, because the types need `typing`, whose import takes a third of the time that `tmem run` has.
"""

from __future__ import annotations

import os
from typing import SupportsIndex

__all__ = ["Size", "Swap"]

Size = str | SupportsIndex | float
"""What a caller may give as a size: bytes, or text such as `2G`, `512MiB`, `1.5GB`, `50%`, `auto`."""

Swap = str | os.PathLike[str] | int | tuple[str | os.PathLike[str], Size] | None
"""`auto`, `none` or None, a size (`20G`), a directory, or both as (directory, size)."""
