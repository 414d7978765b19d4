# SPDX-License-Identifier: Apache-2.0
"""Describes the machine beside every result: figures without it mean nothing.

Owns: nothing. Called by session and benches.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from tmem import __version__
from tmem.limits import machine_memory

__all__ = ["describe"]


def describe() -> dict[str, object]:
    """Return kernel, processor, memory and versions."""
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": _model(),
        "processors": os.cpu_count(),
        "memory_mib": machine_memory() >> 20,
        "python": platform.python_version(),
        "tmem": __version__,
    }


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
