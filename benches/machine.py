# SPDX-License-Identifier: Apache-2.0
"""Describes the machine beside every result: figures without it mean nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tmem.bench import machine

ROOT = Path(__file__).resolve().parents[1]


def describe() -> dict[str, Any]:
    """Return kernel, processor, memory and versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return machine.describe() | {"commit": commit.stdout.strip()}
