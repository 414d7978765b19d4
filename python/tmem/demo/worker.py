# SPDX-License-Identifier: Apache-2.0
"""One measured process: the jobs over one table, under a budget or in plain memory.

Owns: the measuring. Run by run.py as `python -m tmem.demo.worker DIRECTORY BUDGET FAULTS` (budget 0: plain memory).
Prints one JSON document a line: {"stage": name} as each begins, at the end {"measured": ...}.
Peak memory is the kernel's count for this process (VmHWM in /proc/self/status), less what the interpreter and its
libraries had before the first array; temporaries and all else count.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tmem.demo.jobs import JOBS, Columns, PlainRoom, Room, digest, load
from tmem.demo.recipe import Table, read_table
from tmem.memory import Memory

__all__ = ["main"]


def main() -> None:
    """Run the jobs and print what was measured."""
    directory, budget, faults = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    table = read_table(directory)
    _forget_peak()
    before = _status("VmRSS")
    if budget:
        with Memory(budget, swap="auto", faults=faults, name="demo") as memory:
            measured = _jobs(table, _Paged(memory))
    else:
        measured = _jobs(table, PlainRoom())
    measured["peak"] = max(0, _status("VmHWM") - before)
    measured["cpu_seconds"] = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _say(measured=measured)


class _Paged:
    """A Memory as the jobs' Room."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def empty(self, shape: int, dtype: str) -> Any:
        return self._memory.empty(shape, dtype)

    def from_file(self, path: Path, dtype: str) -> Any:
        return self._memory.from_file(path, dtype)

    def report(self) -> dict[str, object]:
        return {"stats": self._memory.stats().as_dict(), "broken": self._memory.check()}


def _jobs(table: Table, room: Room) -> dict[str, Any]:
    """Return the seconds and the digest of each job; digests are made outside the time."""
    seconds: dict[str, float] = {}
    digests: dict[str, str] = {}
    _say(stage="load")
    start = time.perf_counter()
    columns: Columns = load(table, room)
    seconds["load"] = time.perf_counter() - start
    for name, job in JOBS.items():
        _say(stage=name)
        start = time.perf_counter()
        result = job(columns, room)
        seconds[name] = time.perf_counter() - start
        digests[name] = digest(result)
        del result
    _say(stage="verify")
    digests["load"] = digest(*columns.values())
    return {"seconds": seconds, "digests": digests} | room.report()


def _forget_peak() -> None:
    """Let VmHWM begin anew. Where the kernel does not allow it, importing counts as well: more, never less."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError as error:
        print(f"the peak includes start-up: {error}", file=sys.stderr)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    line = next(line for line in text.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _say(**document: object) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
