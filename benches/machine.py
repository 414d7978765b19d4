# SPDX-License-Identifier: Apache-2.0
"""Describes the machine beside every result: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def _line(path: str, start: str) -> str:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(start)), "")


def describe() -> dict[str, Any]:
    """Return kernel, processor, memory and versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": _line("/proc/cpuinfo", "model name"),
        "processors": os.cpu_count(),
        "memory_mib": int(_line("/proc/meminfo", "MemTotal").split()[0]) >> 10,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }
