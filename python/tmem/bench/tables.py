# SPDX-License-Identifier: Apache-2.0
"""The rows as tables: first the geometric mean over the data sets, then each data set; for a screen or as Markdown.

Owns: which figures stand where. Called by cli. A table is a title, headings, and lines of cells; its looks are
the cli's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tmem.bench.plan import FITS
from tmem.bench.report import STEPS, Row, geometric

__all__ = ["Sheet", "as_markdown", "case_words", "notes", "number", "sheets"]

_KERNEL = ("zram", "zswap", "swapfile")


@dataclass(slots=True)
class Sheet:
    """One table."""

    title: str
    headings: list[str]
    lines: list[list[str]] = field(default_factory=list)


def sheets(rows: list[Row]) -> list[Sheet]:
    """Return the tables: for each residency, entry and number of threads all data sets together, then one by one."""
    made = []
    for case in dict.fromkeys(_case(row) for row in rows):
        mine = [row for row in rows if _case(row) == case]
        made.append(_together(case_words(case), mine))
    for data, case in dict.fromkeys((row["data"], _case(row)) for row in rows):
        mine = [row for row in rows if row["data"] == data and _case(row) == case]
        made += _single(f"{data}: {case_words(case)}", mine)
    return made


def notes(rows: list[Row]) -> list[str]:
    """Return what a reader must know of rows without a figure."""
    found = []
    for row in rows:
        where = f"{row['peer']} on {row['data']} at {_share(row['residency'])}, {row['threads']} thread(s)"
        if row["not_there"]:
            found.append(f"{row['peer']}: no {row['pattern']}: {row['not_there']}")
        if row["killed"]:
            found.append(f"{where}: killed by the kernel, for want of memory under its limit, {row['killed']} times")
        found += [
            f"{where}: {reason}, in {row['ended'].count(reason)} of {len(row['rounds'])} rounds for good"
            for reason in dict.fromkeys(row["ended"])
        ]
    return list(dict.fromkeys(found))


def as_markdown(sheet: Sheet) -> str:
    """Return a table as Markdown."""
    lines = [f"**{sheet.title}**", "", f"| {' | '.join(text.removeprefix('>') for text in sheet.headings)} |"]
    lines.append("|" + "|".join(" ---: " if text.startswith(">") else " --- " for text in sheet.headings) + "|")
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in sheet.lines)]) + "\n"


def _together(title: str, rows: list[Row]) -> Sheet:
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    best = sum(peer.startswith(_KERNEL) for peer in peers) > 1
    sets = ", ".join(dict.fromkeys(row["data"] for row in rows))
    sheet = Sheet(
        f"{title}: their time / ours, geometric mean over {sets}",
        ["pattern", *(f">{peer}" for peer in peers), *([">best kernel"] if best else [])],
    )
    for step in _steps(rows):
        mine = [row for row in rows if row["pattern"] == step]
        cells = [_mean([row for row in mine if row["peer"] == peer], "ratio") for peer in peers]
        sheet.lines.append([step, *cells, *([_best(mine)] if best else [])])
    jobs = [row for row in rows if "overhead_ratio" in row]
    if any(row["overhead_ratio"] for row in jobs):
        cells = [_mean([row for row in jobs if row["peer"] == peer], "overhead_ratio") for peer in peers]
        sheet.lines.append(["all jobs, (theirs - plain) / (ours - plain)", *cells, *(["-"] if best else [])])
        raw = [_mean([row for row in jobs if row["peer"] == peer], "ratio") for peer in peers]
        sheet.lines.append(["all jobs, theirs / ours", *raw, *(["-"] if best else [])])
    return sheet


def _single(title: str, rows: list[Row]) -> Iterator[Sheet]:
    """Yield the patterns and the jobs of one data set."""
    for jobs in (False, True):
        mine = [row for row in rows if row["pattern"].startswith("job:") is jobs]
        if not mine:
            continue
        sheet = Sheet(f"{title}, {'seconds' if jobs else 'µs an access'}", [
            "pattern", "peer", ">ours", ">theirs", ">theirs / ours", ">least-most", ">CPU",
            *([">less plain"] if jobs else [">our waits p50 / p99 / p99.9 / max", ">their waits"]),
            ">our MiB", ">their MiB",
        ])  # fmt: skip
        for row in sorted(mine, key=lambda row: STEPS.index(row["pattern"])):
            sheet.lines.append(_line(row, jobs=jobs))
        yield sheet


def _line(row: Row, *, jobs: bool) -> list[str]:
    unit = 1e9 if jobs else 1e3
    spread = row["spread"]
    return [
        row["pattern"],
        row["peer"],
        number(row["ours_ns"], unit),
        number(row["peer_ns"], unit) if row["peer_ns"] else "none" if row["not_there"] else "ended",
        number(row["ratio"]),
        f"{number(spread[0])}-{number(spread[1])}" if spread else "-",
        number(row["cpu_ratio"]),
        *(
            [number(row["overhead_ratio"])]
            if jobs
            else [_waits(row["latency_ours_ns"]), _waits(row["latency_peer_ns"])]
        ),
        f"{row['memory_ours'] / (1 << 20):.0f}",
        f"{row['memory_peer'] / (1 << 20):.0f}",
    ]


def _case(row: Row) -> tuple[float, str, int]:
    return row["residency"], row["entry"], row["threads"]


def case_words(case: tuple[float, str, int]) -> str:
    """Return a case (residency, entry, threads) in words."""
    residency, entry, threads = case
    return f"{_share(residency)}, {entry} entry, {threads} thread{'s' if threads > 1 else ''}"


def _share(residency: float) -> str:
    return "all fits" if residency == FITS else f"{residency:.0%} resident"


def _steps(rows: list[Row]) -> list[str]:
    there = {row["pattern"] for row in rows}
    return [step for step in STEPS if step in there]


def _mean(rows: list[Row], what: str) -> str:
    return number(geometric(row[what] for row in rows))


def _best(rows: list[Row]) -> str:
    """Return how the fastest of the kernel's variants compares, for each data set the one that is fastest there."""
    found = []
    for data in dict.fromkeys(row["data"] for row in rows):
        ratios = [r["ratio"] for r in rows if r["data"] == data and r["peer"].startswith(_KERNEL) and r["ratio"]]
        found += [min(ratios)] if ratios else []
    return number(geometric(found))


def number(value: float | None, unit: float = 1.0) -> str:
    """Return a figure with as many digits as a table has room for; a dash where there is none."""
    if value is None:
        return "-"
    shown = value / unit
    return f"{shown:.0f}" if shown >= 100 else f"{shown:.1f}" if shown >= 10 else f"{shown:.2f}"  # noqa: PLR2004


def _waits(latency: dict[str, float]) -> str:
    return " / ".join(number(latency[name], 1e3) for name in ("p50", "p99", "p99_9", "max")) if latency else "-"
