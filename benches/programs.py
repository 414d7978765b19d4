# SPDX-License-Identifier: Apache-2.0
"""Whole programs at half their memory: under `tmem run`, and under a memory cgroup with the kernel's zram swap.

`python -m benches.programs [--rounds N] [--only NAME...] [--save]`, as root. The programs are those of
tools/programs/catalogue.py. In each round the kernel's side runs first, with half of the plain run's peak of anonymous
memory as its limit; ours then gets that limit and the peak of zram's pool as its budget, with each fault entry in turn,
so that all have the same memory. What is in no budget of ours but charged to a cgroup is given to the kernel's side
besides: pages of files that are mapped, and page tables. Our side runs in a cgroup too, without a limit, whose peak is
kept beside the results. Every answer must be the plain run's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches import machine
from tmem.bench import kernel
from tmem.bench.report import geometric
from tmem.bench.session import signals
from tmem.bench.undo import Changes, recover
from tmem.errors import TmemError
from tmem.memory import MINIMUM_RAM
from tools.programs.catalogue import MAKE, PROGRAMS, Program
from tools.programs.launch import Ran, launch

ALL = PROGRAMS | {"make": MAKE}
ENTRIES = ("thread", "signal")
ZRAM = kernel.Need("zram", "lz4")
NO_SWAP = kernel.Need("")
TMEM = Path(sysconfig.get_path("scripts"), "tmem")
FILES = 32 << 20  # text of programs and libraries, and what they print into
TABLES = 128  # a byte of page tables for so many of memory, in the worst case
SECONDS = 400.0
TRIES = 6  # of one that the kernel kills: each is counted and told
KILLED = (137, -9)

Row = dict[str, Any]


class Side:
    """One program in one directory: its plain run, and runs of both sides that are held to its answer."""

    def __init__(self, name: str, program: Program, directory: Path, changes: Changes) -> None:
        self.name, self._program, self._directory, self._changes = name, program, directory, changes
        program.prepare(directory)
        self.plain = self._run(())
        if self.plain.code or self.plain.late:
            raise TmemError(f"{name} by itself ended with {self.plain.code}: {self.plain.errors}")
        self.limit = self.plain.anonymous // 2

    def kernel(self) -> Row:
        """Run it under the limit with zram behind it, again where the kernel kills it; TmemError for a wrong answer."""
        beside = FILES + self.plain.anonymous // TABLES
        pool = 0
        for killed in range(TRIES):
            with kernel.room(self._changes, ZRAM, self.limit + beside, 2 * self.plain.anonymous) as room:
                ran = self._run(_into(room))
                pool = room.pool_peak()
            if ran.code not in KILLED or ran.late:
                self._verify(ran, "zram")
                return {"seconds": ran.seconds, "pool": pool, "killed": killed, "ended": "late" if ran.late else ""}
        return {"seconds": None, "pool": pool, "killed": TRIES, "ended": "killed by the kernel, for want of memory"}

    def ours(self, memory: int, faults: str) -> Row:
        """Run it under `tmem run` with that much memory in all, faults arriving so; TmemError for a wrong answer."""
        ram = max(MINIMUM_RAM, memory)
        report = self._directory / "tmem-report.json"
        report.unlink(missing_ok=True)
        command = [str(TMEM), "run", "--ram", str(ram), "--faults", faults, "--json", str(report), "--"]
        with kernel.room(self._changes, NO_SWAP, 1 << 50, 0) as room:
            ran = self._run([*_into(room), *command])
            peak = room.peak()
        self._verify(ran, "tmem run")
        if not report.exists():
            raise TmemError(f"{self.name}: no report of tmem run; {ran.errors}")
        told = json.loads(report.read_text(encoding="utf-8"))
        ended = "late" if ran.late else ""
        return {"seconds": ran.seconds, "ram": ram, "cgroup_peak": peak, "report": told, "ended": ended}

    def _run(self, prefix: Sequence[str]) -> Ran:
        return launch(self._program.job(self._directory), self._directory, prefix, SECONDS)

    def _verify(self, ran: Ran, side: str) -> None:
        if not ran.late and (ran.code, ran.answer) != (0, self.plain.answer):
            raise TmemError(f"{self.name} under {side}: exit {ran.code}, another answer; {ran.errors}")


def _into(room: kernel.Room) -> list[str]:
    """Return the words that put a program into a group from its first instruction on."""
    return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(room.entrance)]


def measure(name: str, rounds: int, changes: Changes) -> Row:
    """Return all rounds of a program, both sides in turns, and the median of the rounds' ratios."""
    with tempfile.TemporaryDirectory(prefix="tmem-programs-") as directory:
        side = Side(name, ALL[name], Path(directory), changes)
        found: list[Row] = []
        for _ in range(rounds):
            theirs = side.kernel()
            memory = side.limit + theirs["pool"]
            found.append({"zram": theirs} | {faults: side.ours(memory, faults) for faults in ENTRIES})
    return {
        "program": name,
        "plain_s": side.plain.seconds,
        "anonymous": side.plain.anonymous,
        "limit": side.limit,
        "zram_s": _median([each["zram"]["seconds"] for each in found if not each["zram"]["ended"]]),
        "killed": sum(each["zram"]["killed"] for each in found),
        "tmem": {faults: _compared(found, faults) for faults in ENTRIES},
        "rounds": found,
    }


def _compared(found: list[Row], faults: str) -> Row:
    """Return the median of our times, of the rounds' ratios, and their spread, over rounds that both sides ended."""
    pairs = [(each["zram"], each[faults]) for each in found if not each["zram"]["ended"] and not each[faults]["ended"]]
    ratios = [theirs["seconds"] / ours["seconds"] for theirs, ours in pairs]
    return {
        "seconds": _median([each[faults]["seconds"] for each in found if not each[faults]["ended"]]),
        "ratio": _median(ratios),
        "spread": [min(ratios), max(ratios)] if ratios else None,
    }


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table; what was not measured is a dash."""
    head = (
        "| program, half of its memory resident | MiB plainly | plain, s | zram, s | thread, s | signal, s "
        "| zram / thread | zram / signal | killed by the kernel |"
    )
    lines = [head, "| --- |" + " ---: |" * 8]
    for row in result["rows"]:
        sides = [row["tmem"][faults] for faults in ENTRIES]
        seconds = [row["plain_s"], row["zram_s"], *(side["seconds"] for side in sides)]
        words = [row["program"], str(row["anonymous"] >> 20), *(f"{value:.1f}" if value else "-" for value in seconds)]
        words += [_ratio(side) for side in sides]
        lines.append(f"| {' | '.join(words)} | {row['killed'] or '-'} |")
    means = [geometric(row["tmem"][faults]["ratio"] for row in result["rows"]) for faults in ENTRIES]
    lines.append(f"| geometric mean | | | | | | {' | '.join(f'{mean:.2f}' if mean else '-' for mean in means)} | |")
    return "\n".join(lines)


def _ratio(side: Row) -> str:
    return f"{side['ratio']:.2f} ({side['spread'][0]:.2f}-{side['spread'][1]:.2f})" if side["ratio"] else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=sorted(ALL), metavar="NAME", help="these programs, not all")
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    for check in (kernel.cgroup_missing, lambda: kernel.zram_missing("lz4")):
        reason, remedy = check()
        if reason:
            parser.exit(1, f"cannot compare: {reason}; {remedy}\n")
    for done in recover():
        print(f"left by a run that was killed, undone: {done}")
    result: dict[str, Any] = {"machine": machine.describe(), "rounds": given.rounds, "rows": [], "skipped": {}}
    with signals():
        changes = Changes()
        try:
            for name in given.only or ALL:
                if missing := ALL[name].missing():
                    result["skipped"][name] = missing
                    print(f"without {name}: {missing}", flush=True)
                    continue
                result["rows"].append(measure(name, given.rounds, changes))
                row = result["rows"][-1]
                print(f"{name}: zram / ours {', '.join(_ratio(row['tmem'][each]) for each in ENTRIES)}", flush=True)
        finally:
            changes.undo()
    print(table(result))
    if given.save:
        machine.save("programs", result)


if __name__ == "__main__":
    main()
