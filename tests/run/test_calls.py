# SPDX-License-Identifier: Apache-2.0
"""Programs in C under `tmem run` that do what is rare, odd or rude: they must see what they see without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import refusal

HERE = Path(__file__).parent
GCC = shutil.which("gcc")
TMEM = (sys.executable, "-m", "tmem.cli.main")

pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is not installed")


def _build(name: str, into: Path, *arguments: str) -> Path:
    program = into / name
    command = [str(GCC), "-O1", "-pthread", "-o", str(program), str(HERE / f"{name}.c"), *arguments]
    subprocess.run(command, check=True, timeout=60)
    return program


def _tmem(entry: str, ram: str) -> list[str]:
    if reason := refusal(entry):
        pytest.skip(reason)
    return [*TMEM, "run", "--ram", ram, "--faults", entry, "--"]


def _output(words: list[str], seconds: float = 60) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}{done.stdout[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("entry", ["signal", "thread"])
@pytest.mark.parametrize("filled", [0, 16, 100], ids=lambda mib: f"{mib} MiB filled")
def test_odd_calls_are_answered_as_by_the_kernel(tmp_path: Path, entry: str, filled: int) -> None:
    program = [str(_build("calls", tmp_path)), str(filled)]
    assert _output([*_tmem(entry, "48M"), *program]).splitlines() == _output(program).splitlines()


@pytest.mark.parametrize("entry", ["signal", "thread"])
def test_what_whole_programs_do_leaves_their_memory_as_it_was(tmp_path: Path, entry: str) -> None:
    program = [str(_build("program", tmp_path)), "80", *(["no heap stacks"] if entry == "signal" else [])]
    assert _output([*_tmem(entry, "48M"), *program], 120) == "all good\n"


@pytest.mark.parametrize("entry", ["signal", "thread"])
def test_limits_are_the_programs_own_and_end_with_it(tmp_path: Path, entry: str) -> None:
    program = [str(_build("limits", tmp_path))]
    assert _output([*_tmem(entry, "256M"), *program]) == _output(program)


def test_threads_of_other_libraries_do_not_run_while_the_c_library_is_changed(tmp_path: Path) -> None:
    library = tmp_path / "libbeginner.so"
    subprocess.run([str(GCC), "-shared", "-fPIC", "-o", str(library), str(HERE / "beginner.c")], check=True, timeout=60)
    source = tmp_path / "main.c"
    source.write_text("extern volatile int stop; int main(void) { stop = 1; return 0; }")
    program = tmp_path / "main"
    linking = ["-o", str(program), str(source), f"-L{tmp_path}", "-lbeginner", f"-Wl,-rpath,{tmp_path}"]
    command = [str(GCC), *linking]
    subprocess.run(command, check=True, timeout=60)
    for _ in range(15):  # without care one in four fails
        _output([*TMEM, "run", "--ram", "64M", "--", str(program)])


CUT = """
import os, time
data = bytearray(100 << 20)
data[::4096] = b"x" * len(data[::4096])
told = os.environ["TMEM_RUN"].partition("ledger=")[2].partition(";")[0]
os.truncate(told, 0)
time.sleep(0.6)
more = bytearray(20 << 20)
print(data.count(b"x"), more.count(0))
"""


def test_a_ledger_that_is_cut_short_ends_nobody() -> None:
    words = [*TMEM, "run", "--ram", "64M", "--", sys.executable, "-c", CUT]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{100 << 8} {20 << 20}\n", done.stderr
    assert "ledger was cut short" in done.stderr


INNER = "x = bytearray(40 << 20); x[::4096] = b'x' * len(x[::4096]); import time; time.sleep(1.5); print(x.count(b'x'))"
OUTER = f"""
import json, os, subprocess, sys
x = bytearray(40 << 20)
x[::4096] = b"x" * len(x[::4096])
subprocess.run(["unshare", "-pf", "--mount-proc", sys.executable, "-c", {INNER!r}], check=True)
told = os.environ["TMEM_RUN"].partition("ledger=")[2].partition(";")[0]
with open(told, "rb") as file:
    slots = file.read()[4096:]
print(os.getpid() in [int.from_bytes(slots[at : at + 8], "little") for at in range(0, len(slots), 128)])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace of processes needs root")
def test_a_process_of_another_namespace_takes_nobody_for_dead() -> None:
    words = [*TMEM, "run", "--ram", "64M", "--", sys.executable, "-c", OUTER]
    assert _output(words) == f"{40 << 8}\nTrue\n"


def test_a_report_comes_from_a_program_that_closes_its_standard_error() -> None:
    words = [*TMEM, "run", "--ram", "64M", "--report", "--", "sh", "-c", "exec 2>&-; exit 3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "managed at the peak" in done.stderr


GROWS = """
import time
kept = []
for turn in range(250):
    kept.append(bytearray(b"x") * ((1 << 20) - 4096))
    if turn % 50 == 49:
        time.sleep(0.3)  # the shares are looked at meanwhile
"""


@pytest.mark.parametrize("entry", ["signal", "thread"])
def test_a_program_that_has_room_never_begins_paging(tmp_path: Path, entry: str) -> None:
    report = tmp_path / "report.json"
    words = [*_tmem(entry, "2G")[:-1], "--json", str(report), "--", sys.executable, "-c", GROWS]
    subprocess.run(words, check=True, timeout=60)
    told = json.loads(report.read_text(encoding="utf-8"))
    assert told["peak_managed"] > 200 << 20
    assert (told["faults"], told["evictions"], told["entry"]) == (0, 0, "none")
