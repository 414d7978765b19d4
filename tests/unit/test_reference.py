# SPDX-License-Identifier: Apache-2.0
"""The committed reference is what the docstrings and signatures say now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tmem

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/reference"


def test_reference_is_up_to_date() -> None:
    command = [sys.executable, "-m", "tools.reference", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.md"))
    names = [name for name in tmem.__all__ if not name.startswith("_")]
    assert [name for name in names if f"## {name}\n" not in text and f"`tmem.{name}` is" not in text] == []


def test_no_private_name_is_in_the_reference() -> None:
    for path in REFERENCE.glob("*.md"):
        lines = path.read_text(encoding="utf-8").splitlines()
        headings = [line for line in lines if line.startswith("#")]
        assert [line for line in headings if " _" in line or "._" in line.replace(".__", ".")] == []
