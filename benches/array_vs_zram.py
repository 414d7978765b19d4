# SPDX-License-Identifier: Apache-2.0
"""An array four times its budget: tmem beside plain memory, and beside kernel zram swap with as much memory in all.

`python -m benches.array_vs_zram [--budget MIB] [--rounds N] [--data runs ints]`. As root, it makes a zram swap, a swap
file and a memory cgroup, and removes them again however it ends. Without root it says so, and measures the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from benches import kernel, machine, work

RESULTS = Path(__file__).parent / "results"
TIMES = 4
UNITS = {"fill": "page", "seq_first": "page", "seq_again": "page", "random_read": "access", "random_write": "access"}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--budget", type=int, default=128, metavar="MIB", help="RAM for everything (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default %(default)s)")
    parser.add_argument("--data", nargs="+", choices=["runs", "ints"], default=["runs", "ints"])
    parser.add_argument("--faults", nargs="+", choices=["signal", "thread"], default=["signal"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    return parser.parse_args()


def shares(budget: int, whole: int, ratio: float) -> tuple[int, int]:
    """Return how the kernel's side divides the same memory: bytes that are resident, bytes of pages in zram.

    Where all that is swapped out fits into zram, as much stays resident as then can, and zram is large enough for all
    (pages that came back keep their place there). Else two fifths stay resident, as with tmem, and zram is as large as
    what it packs into the rest.
    """
    fits = int((ratio * budget - whole) / (ratio - 1) * 0.97) if ratio > TIMES else 0
    if fits > budget * 0.4:
        return fits, whole + budget
    resident = int(budget * 0.4)
    return resident, int((budget - resident) * ratio)


def run_worker(spec: dict[str, Any], limited: kernel.Limited | None = None) -> dict[str, Any]:
    """Run the work in a process of its own; what it found."""
    np.ones(spec["bytes"] // 8)  # a machine that was idle gives its first pages slowly: they are asked for here
    command = [sys.executable, "-m", "benches.work", json.dumps(spec)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=machine.ROOT) as child:
        try:
            if child.stdout is None or child.stdout.readline().strip() != "ready":
                raise SystemExit("the worker did not start")
            if limited:
                limited.admit(child.pid)
            out, _ = child.communicate("go\n")
        finally:
            child.kill()
    answer: dict[str, Any] = {"steps": {}, "ended": child.returncode}
    for line in out.splitlines():
        told = json.loads(line)
        if "step" in told:
            answer["steps"][told.pop("step")] = told
        else:
            answer |= told
    if answer.get("broken") or (child.returncode and not limited):
        raise SystemExit(f"the worker of {spec['peer']} ended with {child.returncode}: {answer.get('broken')}")
    return answer


def on_zram(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the work over kernel swap, with as much memory in all as the budget."""
    source = work.Source(spec["data"], spec["seed"])
    ratio = kernel.packed_ratio(b"".join(source.chunk(n).tobytes() for n in range(16)))
    resident, disk = shares(spec["budget"], spec["bytes"], ratio)
    page_tables = spec["bytes"] // 256  # theirs are charged to the cgroup, ours are in no budget
    with kernel.Limited(resident + page_tables, disk, spec["bytes"]) as limited:
        # The kernel at times kills a process in a cgroup for want of memory while its swap has room: that is a result.
        answer = run_worker(spec, limited)
        used, zram = limited.peaks()
    return answer | {"zram_ratio": ratio, "resident_peak": used - page_tables, "zram_peak": zram}


def peers(faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "plain", {"peer": "plain"}
    for entry in faults:
        yield f"tmem {entry}", {"peer": "tmem", "faults": entry}
    if not kernel.missing():
        yield "zram", {"peer": "zram"}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Return every round of every peer on every data set, peers alternating."""
    budget = given.budget << 20
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for data in given.data:
        for number in range(given.rounds):
            for name, peer in peers(given.faults):
                print(f"{data}, round {number + 1} of {given.rounds}: {name}", file=sys.stderr, flush=True)
                spec = peer | {"data": data, "seed": given.seed, "budget": budget, "bytes": TIMES * budget}
                answer = on_zram(spec) if name == "zram" else run_worker(spec)
                runs.setdefault(data, {}).setdefault(name, []).append(answer)
    return {
        "machine": machine.describe(),
        "budget_mib": given.budget,
        "array_mib": TIMES * given.budget,
        "seed": given.seed,
        "skipped": [kernel.missing()] if kernel.missing() else [],
        "runs": runs,
    }


def table(result: dict[str, Any]) -> str:
    """Return the medians, with the spread, as Markdown."""
    lines = []
    for data, by_peer in result["runs"].items():
        names = list(by_peer)
        ours = next(name for name in names if name.startswith("tmem"))
        lines += ["", f"| {data} | " + " | ".join(names) + " | zram / tmem |", "| --- |" + " ---: |" * (len(names) + 1)]
        for step in by_peer[ours][0]["steps"]:
            cells, medians = [], {}
            for name in names:
                cell, medians[name] = cell_of(step, by_peer[name])
                cells.append(cell)
            ratio = f"{medians['zram'] / medians[ours]:.1f}" if medians.get("zram") else "-"
            unit = f"µs a {UNITS[step]}" if step in UNITS else "s"
            lines.append(f"| {step}, {unit} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines)


def cell_of(step: str, rounds: list[dict[str, Any]]) -> tuple[str, float]:
    """Return the median and spread of one step as text, and the median; 0 where no round came so far."""
    found = [each["steps"][step]["seconds" if ":" in step else "us"] for each in rounds if step in each["steps"]]
    killed = f" killed {len(rounds) - len(found)} of {len(rounds)}" if len(found) < len(rounds) else ""
    if not found:
        return killed.strip(), 0.0
    middle = statistics.median(found)
    return f"{middle:.2f} ({min(found):.2f}-{max(found):.2f}){killed}", middle


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    given = options()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _stop)
    if reason := kernel.missing():
        print(f"without kernel swap: {reason}", file=sys.stderr)
    else:
        print("will use zram0, a swap file in /var/tmp and a memory cgroup, and remove them again", file=sys.stderr)
    result = measure(given)
    print(table(result))
    if given.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "array_vs_zram.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
