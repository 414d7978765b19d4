# SPDX-License-Identifier: Apache-2.0
"""What `tmem run` costs programs whose memory fits: some of pyperformance, and a parallel make of a C project.

`python -m benches.no_pressure [--rounds N] [--only NAME...] [--save]`. Each round runs a benchmark plainly and under
`tmem run` with more RAM than it needs, in turns, first one and then the other; times are pyperf's own, of a worker that
has the preload in it too (checked by the report's number of processes), and for make those of the whole. The ratio is
that of the medians over all rounds. Where the processor counts instructions for `perf stat`, a round more counts them.
Needs the extra `bench` (pyperformance); gcc and make for the last row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches import machine
from tmem.bench.report import geometric
from tmem.errors import TmemError
from tools.programs.catalogue import MAKE
from tools.programs.launch import Job, Ran, launch

# Of pyperformance, those that need nothing but the interpreter and take seconds.
QUICK = (
    "comprehensions", "deepcopy", "deltablue", "float", "gc_collect", "go", "json_dumps", "json_loads", "logging",
    "nbody", "pickle", "python_startup", "regex_compile", "richards", "spectral_norm", "unpack_sequence",
)  # fmt: skip
ALL = (*QUICK, "make")
WORDS = {"pickle": ("pickle",)}  # which of its things a script is to measure, where it must be told
TMEM = Path(sysconfig.get_path("scripts"), "tmem")
RAM = 8 << 30
SECONDS = 400.0
VALUES = ("--processes", "1", "--warmups", "1", "--values", "5")
INHERIT = "LD_PRELOAD,TMEM_RUN"
SIDES = ("plain", "tmem")
AIM = 1.03  # at most

Row = dict[str, Any]


def missing(name: str) -> str:
    """Return why a benchmark cannot run here; nothing where it can."""
    if name == "make":
        return MAKE.missing()
    return "" if importlib.util.find_spec("pyperformance") else "no pyperformance: pip install 'tmem[bench]'"


def _job(name: str, directory: Path) -> Job:
    if name == "make":
        return MAKE.job(directory)
    found = importlib.util.find_spec("pyperformance")
    if found is None or found.origin is None:
        raise TmemError(missing(name))
    script = Path(found.origin).parent / "data-files/benchmarks" / f"bm_{name}" / "run_benchmark.py"
    words = (*VALUES, "--inherit-environ", INHERIT, "--quiet", "-o", "values.json", *WORDS.get(name, ()))
    return Job([sys.executable, str(script), *words])


def run(name: str, side: str, directory: Path, around: Sequence[str] = ()) -> tuple[Ran, dict[str, float]]:
    """Run a benchmark once; return what came of it, and seconds by name: one script may measure several things.

    TmemError where it fails, or where the preload was not in all of its processes.
    """
    values, report = directory / "values.json", directory / "report.json"
    for path in (values, report):
        path.unlink(missing_ok=True)
    words = [str(TMEM), "run", "--ram", str(RAM), "--json", str(report), "--"] if side == "tmem" else []
    ran = launch(_job(name, directory), directory, [*around, *words], SECONDS)
    if ran.code or ran.late:
        raise TmemError(f"{name}, {side}: ended with {ran.code} after {ran.seconds:.0f} s: {ran.errors}")
    if side == "tmem":
        told = json.loads(report.read_text(encoding="utf-8"))
        if told["processes"] < 2 or told["evictions"]:
            raise TmemError(f"{name} ran in {told['processes']} processes of ours, with {told['evictions']} evictions")
    if name == "make":
        return ran, {"make": ran.seconds}
    import pyperf  # noqa: PLC0415 - not there without the extra

    return ran, {each.get_name(): each.median() for each in pyperf.BenchmarkSuite.load(str(values)).get_benchmarks()}


def instructions(name: str, side: str, directory: Path) -> int | None:
    """Return how many instructions the whole tree took in user space and in the kernel; None where nobody counts."""
    if shutil.which("perf") is None:
        return None
    counted = directory / "counted"
    run(name, side, directory, ["perf", "stat", "-x", ",", "-e", "instructions", "-o", str(counted), "--"])
    lines = [line.split(",") for line in counted.read_text(encoding="utf-8").splitlines() if "instructions" in line]
    return int(lines[0][0]) if lines and lines[0][0].isdecimal() else None


def measure(name: str, rounds: int, *, count: bool) -> list[Row]:
    """Return a row for each thing that a benchmark measures."""
    with tempfile.TemporaryDirectory(prefix="tmem-programs-") as made:
        directory = Path(made)
        if name == "make":
            MAKE.prepare(directory)
        found: dict[str, dict[str, list[float]]] = {side: {} for side in SIDES}
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                for what, seconds in run(name, side, directory)[1].items():
                    found[side].setdefault(what, []).append(seconds)
        counts = {side: instructions(name, side, directory) if count else None for side in SIDES}
    rows = []
    for what, plain in found["plain"].items():
        ours = found["tmem"][what]
        ratios = sorted(b / a for a, b in zip(plain, ours, strict=True))
        rows.append({
            "name": what, "plain_s": plain, "tmem_s": ours, "instructions": counts,
            "ratio": statistics.median(ours) / statistics.median(plain), "spread": [ratios[0], ratios[-1]],
        })  # fmt: skip
    return rows


def counts_here() -> bool:
    """Return whether `perf stat` counts instructions on this machine."""
    if shutil.which("perf") is None:
        return False
    command = ["perf", "stat", "-x", ",", "-e", "instructions", "true"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.returncode == 0 and said.stderr.split(",")[0].strip().isdecimal()


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table; instructions are a dash where nobody counted them."""
    lines = ["| tmem run / plain, memory fits | time | spread | instructions |", "| --- | ---: | ---: | ---: |"]
    for row in result["rows"]:
        plain, ours = (row["instructions"][side] for side in SIDES)
        counted = f"{ours / plain:.3f}" if plain and ours else "-"
        lines.append(
            f"| {row['name']} | {row['ratio']:.3f} | {row['spread'][0]:.2f}-{row['spread'][1]:.2f} | {counted} |"
        )
    suite = geometric(row["ratio"] for row in result["rows"] if row["name"] != "make")
    verdict = "-" if not suite else f"{suite:.3f} ({'held' if suite <= AIM else 'not held'}: at most {AIM})"
    lines.append(f"| pyperformance, geometric mean | {verdict} | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=ALL, metavar="NAME", help="these, not all")
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    count = counts_here()
    result: dict[str, Any] = {"machine": machine.describe(), "rounds": given.rounds, "rows": [], "skipped": {}}
    for name in given.only or ALL:
        if reason := missing(name):
            result["skipped"][name] = reason
            print(f"without {name}: {reason}", flush=True)
            continue
        for row in measure(name, given.rounds, count=count):
            result["rows"].append(row)
            print(f"{row['name']}: {row['ratio']:.3f}", flush=True)
    print(table(result))
    if given.save:
        machine.save("no_pressure", result)


if __name__ == "__main__":
    main()
