# SPDX-License-Identifier: Apache-2.0
"""The page on writing backends: its sample keeps the laws, and its figures are those measured."""

from __future__ import annotations

import json
import re
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

import tmem
from tmem.testing import check_ops

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "docs/samples/compressing_backend.py"
PAGE = ROOT / "docs/how-to/write-a-backend.md"


def test_the_compressing_backend_keeps_every_law() -> None:
    backend = runpy.run_path(str(SAMPLE))["Compressing"]
    assert check_ops(backend()) == []


def test_the_compressing_backend_works_in_a_hook() -> None:
    backend = runpy.run_path(str(SAMPLE))["Compressing"]
    with tmem.Frontswap(None, [backend()], pages=10) as fs:
        assert fs.store(1, b"ab" * 2048)
        assert fs.load(1) == b"ab" * 2048
        assert fs.stats().refused == {}


def test_the_sample_runs_under_a_memory() -> None:
    ran = subprocess.run([sys.executable, SAMPLE], capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"broken laws: \[\]\nright: True packed pages: [1-9]\d+\n", ran.stdout)


def test_the_page_shows_what_check_ops_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    broken = re.search(r"```python\n(class Forgetful.*?)```", text, re.DOTALL)
    said = re.search(r"```text\n(.*?)\n```", text, re.DOTALL)
    assert broken is not None
    assert said is not None
    names = runpy.run_path(str(SAMPLE)) | {"tmem": tmem}
    exec(broken[1], names)  # noqa: S102 - the page's own code
    told: list[str] = check_ops(names["Forgetful"]())
    assert said[1] in told, told


def test_the_page_has_the_figures_of_the_committed_result() -> None:
    rounds = json.loads((ROOT / "benches/results/python_backend.json").read_text(encoding="utf-8"))["rounds"]
    text = PAGE.read_text(encoding="utf-8")
    for step, digits in (("p50_us", 1), ("p99_us", 1), ("out", 0), ("in", 0), ("work", 0)):
        values = [statistics.median(one[step] for one in rounds[peer]) for peer in ("store", "plain", "python")]
        pattern = r" \([\d.-]+\) \| ".join(re.escape(f"{value:.{digits}f}") for value in values)
        assert re.search(rf"\| {pattern} \(", text), (step, values)
