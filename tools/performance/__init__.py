# SPDX-License-Identifier: Apache-2.0
"""The tables of measured figures in README.md and docs/explanation/performance.md, made from the committed results.

Owns: which rows of `tmem bench`, and of some scripts of benches/, are shown where; footprint has those of
`tmem bench --footprint`, host those of the daemon. Called by
`python -m tools.performance`, and by a test that holds the pages to the committed results. A figure that was not
measured is shown as a dash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benches import kernel_edge, no_pressure, packers, programs
from tmem.bench.report import geometric
from tools.performance import footprint, host

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benches/results/bench.json"
EDGE = ROOT / "benches/results/kernel_edge.json"
PACKERS = ROOT / "benches/results/packers.json"
PROGRAMS = ROOT / "benches/results/programs.json"
LEASES = ROOT / "benches/results/leases.json"
SELFISH = ROOT / "benches/results/selfish.json"
NO_PRESSURE = ROOT / "benches/results/no_pressure.json"
PAGES = (ROOT / "README.md", ROOT / "docs/explanation/performance.md")

_BOUNDS = (20, 3)  # from either on, a ratio has a digit less

Row = dict[str, Any]
MAIN = ("flights", "heap")
NUMERIC = ("ints", "cumsum")
ALL = ("flights", "heap", "text", "ints", "cumsum", "floats", "random", "zeros")
VARIANTS = ("zram", "zram-default", "zram-cluster0", "zram-thp", "zram-mthp64k", "zram-random")
WORDS = {
    "fill": "fill",
    "seq_first": "read in order, first",
    "seq_again": "read in order, again",
    "backward": "read backwards",
    "strided": "read in strides of seven pages",
    "random_read": "read at random",
    "random_write": "write at random",
    "zipf_read": "read by Zipf 0.99",
    "zipf_write": "write by Zipf 0.99",
}


class Rows:
    """The rows of one result, to be chosen from."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self._rows: list[Row] = result["rows"]

    def some(self, **wanted: Any) -> Iterator[Row]:
        """Yield the rows with these values; a tuple allows any of its own."""
        for row in self._rows:
            if all(row[key] in (value if isinstance(value, tuple) else (value,)) for key, value in wanted.items()):
                yield row

    def ratio(self, what: str = "ratio", **wanted: Any) -> float | None:
        """Return the geometric mean of the ratios of the rows chosen; None where one of the data sets has none."""
        chosen = {"entry": "signal", "threads": 1, "peer": "zram"} | wanted
        found = {row["data"]: row.get(what) for row in self.some(**chosen)}
        data = wanted.get("data", MAIN)
        names = data if isinstance(data, tuple) else (data,)
        return geometric(found.values()) if all(found.get(name) for name in names) else None


def figure(value: float | None) -> str:
    """Return a ratio with as many digits as it is good for."""
    if value is None:
        return "-"
    digits = sum(value < bound for bound in _BOUNDS)
    return f"{value:.{digits}f}"


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table: the first column is words, the others are figures."""
    names = list(head)
    rule = "| --- |" + " ---: |" * (len(names) - 1)
    return "\n".join(["| " + " | ".join(names) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)])


def overall(rows: Rows) -> str:
    """Return the table with the aims: flights and heap together, at both residencies."""
    lines: list[tuple[str, dict[str, Any], str, str]] = [
        ("fill", {"pattern": "fill"}, "5", "3"),
        ("read in order, first (half the victims dirty)", {"pattern": "seq_first"}, "13", "5"),
        ("read in order, again (clean)", {"pattern": "seq_again"}, "27", "12"),
        ("again, on numbers (int64 range, float64 sums)", {"pattern": "seq_again", "data": NUMERIC}, "75", "25"),
        ("read at random", {"pattern": "random_read"}, "4", "2.5"),
        ("write at random", {"pattern": "random_write"}, "2.8", "1.8"),
        ("read by Zipf 0.99", {"pattern": "zipf_read"}, "3", "1.8"),
        ("write by Zipf 0.99", {"pattern": "zipf_write"}, "2.5", "1.5"),
        ("read at random, two threads together", {"pattern": "random_read", "threads": 2}, "3.3", "2.2"),
        ("thread entry: read in order, again", {"pattern": "seq_again", "entry": "thread"}, "10", "4"),
        ("thread entry: read at random", {"pattern": "random_read", "entry": "thread"}, "1.5", "1"),
    ]
    made = []
    for words, chosen, aim, least in lines:
        wanted: dict[str, Any] = {"data": MAIN, **chosen}
        made.append((words, *(figure(rows.ratio(residency=share, **wanted)) for share in (0.5, 0.25)), aim, least))
    for words, what, aim, least in (
        ("whole jobs: (theirs - plain) / (ours - plain)", "overhead_ratio", "6", "3"),
        ("whole jobs: theirs / ours", "ratio", "", ""),
    ):
        made.append((words, *(figure(jobs(rows, what, share)) for share in (0.5, 0.25)), aim, least))
    return table(("zram's time / ours", "50 % resident", "25 % resident", "aim", "at least"), made)


def jobs(rows: Rows, what: str, share: float) -> float | None:
    """Return the geometric mean over the jobs of both main data sets."""
    found = rows.some(data=MAIN, residency=share, peer="zram", entry="signal", threads=1)
    return geometric(row.get(what) for row in found if row["pattern"].startswith("job:"))


def short(rows: Rows) -> str:
    """Return the first table of README.md."""
    kept = ("fill", "read in order, again", "read at random |", "read at random, two", "whole jobs: (theirs")
    head, rule, *lines = overall(rows).splitlines()
    chosen = [line for line in lines if line.removeprefix("| ").startswith(kept)]
    return "\n".join("|".join(line.split("|")[:4]) + "|" for line in (head, rule, *chosen))


def by_data(rows: Rows) -> str:
    """Return every pattern on every data set at 50 %: ours, theirs, ratio and spread."""
    blocks = []
    for data in ALL:
        wanted = {"data": data, "residency": 0.5, "entry": "signal", "threads": 1, "peer": "zram"}
        found = ((words, row) for pattern, words in WORDS.items() for row in rows.some(pattern=pattern, **wanted))
        lines = [(words, *cells(row, 1e3)) for words, row in found]
        if lines:
            head = (f"**{data}**, µs an access", "ours", "zram", "ratio", "spread", "CPU", "p50 / p99 / p99.9 / max")
            blocks.append(table(head, lines))
    return "\n\n".join(blocks)


def cells(row: Row, unit: float) -> tuple[str, ...]:
    """Return one row's figures."""
    ours, theirs = (f"{row[key] / unit:.2f}" if row[key] else "-" for key in ("ours_ns", "peer_ns"))
    spread = "-" if not row["spread"] else "{}-{}".format(*map(figure, row["spread"]))
    waits = row["latency_ours_ns"]
    told = " / ".join(f"{ns / 1e3:.1f}" for ns in waits.values()) or "-"
    return ours, theirs, figure(row["ratio"]), spread, figure(row["cpu_ratio"]), told


def variants(rows: Rows) -> str:
    """Return every kernel variant beside ours, and the best of them."""
    lines = []
    for pattern, words in WORDS.items():
        found = [rows.ratio(data=MAIN, residency=0.5, pattern=pattern, peer=peer) for peer in VARIANTS]
        there = [value for value in found if value]
        lines.append((words, *map(figure, found), figure(min(there) if there else None)))
    return table(("their time / ours, 50 %", *VARIANTS, "best"), lines)


def others(rows: Rows) -> str:
    """Return the peers with a file, on the patterns, and all of them on whole jobs."""
    peers = ("swapfile", "zswap", "memmap")
    lines = [
        (words, *(figure(rows.ratio(data=MAIN, residency=0.5, pattern=pattern, peer=peer)) for peer in peers))
        for pattern, words in WORDS.items()
    ]
    return table(("their time / ours, 50 %", *peers), lines)


def job_table(rows: Rows) -> str:
    """Return whole jobs beside everybody, and where they fit."""
    columns = (("plain", 0.5), ("zram", 0.5), ("zram", 0.25), ("memmap", 0.5), ("blosc2", None), ("plain", 1.25))
    steps = dict.fromkeys(row["pattern"] for row in rows.some(data=MAIN) if row["pattern"].startswith("job:"))
    lines = []
    for step in steps:
        found = []
        for peer, share in columns:
            wanted = {"data": MAIN, "pattern": step, "peer": peer, "entry": "signal"}
            seen = rows.some(**wanted) if share is None else rows.some(residency=share, **wanted)
            found.append(figure(geometric({row["data"]: row["ratio"] for row in seen}.values())))
        lines.append((step.removeprefix("job:"), *found))
    head = (
        "their time / ours",
        "plain, 50 %",
        "zram, 50 %",
        "zram, 25 %",
        "memmap, 50 %",
        "blosc2",
        "plain, where it fits",
    )
    return table(head, lines)


def random_bytes(rows: Rows) -> str:
    """Return the worst case, where nothing packs: beside zram and beside the swap file it is made for."""
    columns = (("zram", 0.5), ("zram", 0.25), ("swapfile", 0.5))
    lines = [
        (
            words,
            *(
                figure(rows.ratio(data="random", residency=share, pattern=pattern, peer=peer))
                for peer, share in columns
            ),
        )
        for pattern, words in WORDS.items()
    ]
    return table(("their time / ours", "zram, 50 %", "zram, 25 %", "swapfile, 50 %"), lines)


def edge(_rows: Rows) -> str:
    """Return what the kernel's interface costs by itself."""
    return kernel_edge.table(_loaded(EDGE))


def packed(_rows: Rows) -> str:
    """Return what the packers cost and save beside LZ4."""
    return packers.table(_loaded(PACKERS))


def whole_programs(_rows: Rows) -> str:
    """Return whole programs at half their memory, beside the kernel's zram swap."""
    return programs.table(_loaded(PROGRAMS))


def fitting(_rows: Rows) -> str:
    """Return what `tmem run` costs programs whose memory fits."""
    return no_pressure.table(_loaded(NO_PRESSURE))


def leases(_rows: Rows) -> str:
    """Return what a lease costs."""
    return host.leases(_loaded(LEASES), table)


def selfish(_rows: Rows) -> str:
    """Return what selfish guests settle at."""
    return host.selfish(_loaded(SELFISH), table)


def stored(_rows: Rows) -> str:
    """Return what a stored page takes and what a cold fault costs."""
    return footprint.tables(footprint.read(), ALL, table)


def _loaded(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def machine(rows: Rows) -> str:
    """Return the machine and the run in a line."""
    told = ", ".join(f"{key} {value}" for key, value in rows.result["machine"].items())
    return f"({told}.)"


BLOCKS: dict[str, Callable[[Rows], str]] = {
    "short": short,
    "overall": overall,
    "by_data": by_data,
    "variants": variants,
    "others": others,
    "jobs": job_table,
    "random_bytes": random_bytes,
    "edge": edge,
    "packers": packed,
    "programs": whole_programs,
    "no_pressure": fitting,
    "footprint": stored,
    "leases": leases,
    "selfish": selfish,
    "machine": machine,
}


def written(page: str, rows: Rows) -> str:
    """Return a page with each marked block made anew."""

    def made(found: re.Match[str]) -> str:
        return f"<!-- measured: {found[1]} -->\n{BLOCKS[found[1]](rows)}\n<!-- end -->"

    return re.sub(r"<!-- measured: (\w+) -->\n.*?<!-- end -->", made, page, flags=re.DOTALL)


def read() -> Rows:
    """Return the committed result."""
    return Rows(_loaded(RESULT))
