# SPDX-License-Identifier: Apache-2.0
"""What the scripts share: the machine beside every result (figures without it mean nothing), compiled loops, saving."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tmem.bench import machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Return kernel, processor, memory and versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return machine.describe() | {"commit": commit.stdout.strip()}


def run_example(crate: str, name: str, *arguments: str) -> str:
    """Build and run a compiled example that knows `--json`, and return what it printed."""
    command = ["cargo", "run", "--quiet", "--release", "-p", crate, "--example", name, "--", "--json", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout


def save(name: str, result: dict[str, Any]) -> None:
    """Keep a raw result beside the scripts."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
