# SPDX-License-Identifier: Apache-2.0
"""CPython's own tests of memory, threads and processes have the same outcomes under `tmem run --ram 48M` as plainly.

`python -m test` of an interpreter that has the module, by preference the one that runs this (CPython 3.11.5 to 3.12.1
was installed without some of its tests): each module twice, at once, with an XML file of what became of each test.
Compared are sets of (test, outcome), and none may differ. Tests that CPython skips (by its resources, or for want of
something) are skipped on both sides.

Needs an interpreter that has the package `test` (Debian: libpython3-testsuite): this one, one on PATH, or one
installed beside it, as pyenv does.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.programs.tmemrun import Under
from tools.programs.launch import Job, Ran, launch

SECONDS = 500.0
RAM = 48 << 20

pytestmark = [pytest.mark.programs, pytest.mark.timeout(SECONDS + 60)]

MODULES = (
    "test_mmap",
    "test_array",
    "test_buffer",
    "test_memoryview",
    "test_threading",
    "test_fork1",
    "test_subprocess",
    "test_multiprocessing_fork",
    "test_io",
)

Outcomes = set[tuple[str, str]]


def _outcomes(path: Path) -> Outcomes:
    """Return each test's name with what became of it: `passed`, `skipped`, `failure` or `error`."""
    found = set()
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - the interpreter's own file
        name = f"{case.get('classname', '')}.{case.get('name', '')}"
        ends = [child.tag for child in case if child.tag in ("skipped", "failure", "error")]
        found.add((name, ends[0] if ends else "passed"))
    return found


def _interpreter(module: str) -> str | None:
    """Return the first interpreter that has this module of CPython's tests."""
    if importlib.util.find_spec(f"test.{module}") is not None:
        return sys.executable
    beside = sorted(Path(sys.base_prefix).parent.glob("3.1[1-9]*/bin/python3"))
    names = [shutil.which(f"python3.{minor}") for minor in (11, 12, 13, 14)]
    ask = f"from importlib.util import find_spec; import sys; sys.exit(not find_spec('test.{module}'))"
    for found in [*filter(None, names), *map(str, beside)]:
        if subprocess.run([found, "-c", ask], capture_output=True, check=False).returncode == 0:
            return found
    return None


def _job(interpreter: str, module: str) -> Job:
    return Job([interpreter, "-m", "test", "--junit-xml", "outcomes.xml", "--timeout", "400", module])


@pytest.mark.parametrize("module", MODULES)
def test_outcomes_are_those_of_the_plain_run(under: Under, tmp_path: Path, module: str) -> None:
    interpreter = _interpreter(module)
    if interpreter is None:
        pytest.skip(f"no interpreter has test.{module}: install the package libpython3-testsuite")
    job = _job(interpreter, module)
    plainly, paged = tmp_path / "plainly", tmp_path / "paged"
    plainly.mkdir()
    paged.mkdir()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(launch, job, plainly, (), SECONDS)
        ran, told = under(job, paged, ram=RAM, seconds=SECONDS)
        plain: Ran = waiting.result()
    assert (plain.late, ran.late) == (False, False), ran.errors
    expected, found = _outcomes(plainly / "outcomes.xml"), _outcomes(paged / "outcomes.xml")
    assert len(expected) > 2
    assert sorted(found - expected) == [], f"plainly: {sorted(expected - found)}\n{ran.errors}"
    assert found == expected
    assert ran.code == plain.code
    assert told["managed"] > 0, told
