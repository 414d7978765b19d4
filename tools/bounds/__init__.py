# SPDX-License-Identifier: Apache-2.0
"""Bounds on the pager's work in counts that no noise can sway: pages on the real kernel, instructions under callgrind.

The committed figures lie in tests/integration/bounds.json. `python -m tools.bounds` shows them beside new ones, and
with `--renew` puts the new ones in their place.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["FILE", "MissingError", "broken", "counters", "instructions", "load", "save"]

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests/integration/bounds.json"
"""Where the committed figures are."""

Figures = Mapping[str, Mapping[str, float]]
"""By section (a phase of work, or `instructions`), figures by name."""

BETTER_HIGH = {"clean_evictions", "standby_hits"}
"""Of these, fewer is worse; of all others, more is."""

ROOM_INSTRUCTIONS = 0.02
ROOM_INSTRUCTIONS_ELSEWHERE = 0.15  # another compiler lays code out in another way
ROOM_COUNTS = 0.05
BYTES = 4096  # of a page
ROOM_PAGES = 64  # the kernel turns some moves away, now and then


class MissingError(Exception):
    """What this machine lacks for a measurement."""


def load() -> dict[str, dict[str, float]]:
    """Return the committed figures; the compiler's version is under `compiler`."""
    figures: dict[str, dict[str, float]] = json.loads(FILE.read_text(encoding="utf-8"))
    return figures


def save(figures: Figures) -> None:
    """Make these the committed figures."""
    FILE.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def compiler() -> str:
    """Return the Rust compiler's version."""
    if shutil.which("rustc") is None:
        raise MissingError("no rustc")
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]


def counters() -> dict[str, dict[str, float]]:
    """Return what a fixed piece of work made the pager count on the real kernel, by phase."""
    command = [sys.executable, "-m", "tools.bounds.work"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the measured work ended with {done.returncode}:\n{done.stderr}")
    phases: dict[str, dict[str, float]] = json.loads(done.stdout)
    return phases


def build() -> Path:
    """Build the program that callgrind runs, as what is installed but for optimisation across crates; its path."""
    if shutil.which("cargo") is None:
        raise MissingError("no cargo")
    command = ["cargo", "build", "--quiet", "--profile=counting", "-p", "tmem-pager", "--bin", "fault_cost"]
    subprocess.run([*command, "--features", "fake-kernel"], cwd=ROOT, check=True)
    target = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version=1"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return Path(json.loads(target.stdout)["target_directory"]) / "counting/fault_cost"


def instructions() -> dict[str, float]:
    """Return the fault function's instructions by kind of fault: per fault, and for sequential kinds per page.

    Valgrind shows programs a processor of its own: what is chosen at run time by the processor's abilities is the form
    for AVX2 there, because valgrind has no AVX-512. What wider vectors save is not seen here.
    """
    if shutil.which("valgrind") is None:
        raise MissingError("no valgrind")
    program = build()
    with tempfile.TemporaryDirectory() as directory:
        options = ["--tool=callgrind", "--collect-atstart=no", "--instr-atstart=no"]
        command = ["valgrind", "--quiet", *options, f"--callgrind-out-file={directory}/out", str(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the counted program ended with {done.returncode}:\n{done.stderr}")
        sums = dict(_sums(Path(directory)))
    return {kind: round(total / _divisor(kind, done.stdout)) for kind, total in sums.items()}


def _sums(directory: Path) -> list[tuple[str, int]]:
    """Return what callgrind wrote down at each request, in order."""
    found = []
    for number in range(1, len(list(directory.iterdir()))):
        text = (directory / f"out.{number}").read_text(encoding="utf-8")
        kind = re.search(r"^desc: Trigger: Client Request: (\w+)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
        if kind is None or total is None:
            raise RuntimeError(f"no sum in callgrind's part {number}")
        found.append((kind[1], int(total[1])))
    return found


def _divisor(kind: str, printed: str) -> int:
    """Return by what to divide a sum: the faults, or the pages of a sequential kind, as the program printed them."""
    for line in printed.splitlines():
        name, faults, pages = line.split()
        if name == kind:
            return int(pages) if kind.startswith("sequential") else int(faults)
    raise RuntimeError(f"nothing was printed of {kind}")


def broken(measured: Mapping[str, float], bounds: Mapping[str, float], *, room: float, plus: float = 0) -> list[str]:
    """Return, in words, every figure that is worse than its committed one by more than a share and `plus` pages."""
    told = []
    for name, bound in bounds.items():
        now = measured.get(name)
        slack = plus * BYTES if name == "copied" else plus
        if now is None:
            told.append(f"{name}: not measured any more")
        elif name in BETTER_HIGH and now < bound * (1 - room) - slack:
            told.append(f"{name}: {now:g}, committed {bound:g}, less is worse")
        elif name not in BETTER_HIGH and now > bound * (1 + room) + slack:
            told.append(f"{name}: {now:g}, committed {bound:g}")
    return told
