# SPDX-License-Identifier: Apache-2.0
"""Say what this machine permits, which fault entry will be used, and what to change."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rich.markup import escape

from tmem.cli.render import console, print_json
from tmem.doctor import Finding, Report, examine

__all__ = ["add_arguments", "run"]

_NO_ENTRY = 125


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `doctor` looks at everything."""
    parser.epilog = "Exit code: 0 where tmem can page here, 125 where it cannot."


def run(options: argparse.Namespace) -> int:
    """Print the findings. Return 0 where arrays can be paged on this machine."""
    report = examine()
    if options.json:
        print_json(
            {
                "usable": bool(report.entry),
                "entry": report.entry,
                "run_entry": report.run_entry,
                "findings": [asdict(item) for item in report.findings],
            }
        )
    else:
        _show(report)
    return 0 if report.entry else _NO_ENTRY


def _show(report: Report) -> None:
    out = console()
    for finding in report.findings:
        out.print(f"{_mark(finding)} [bold]{finding.name:<13}[/bold] {escape(finding.what)}", soft_wrap=True)
        if finding.remedy:
            out.print(f"{'':16}-> {escape(finding.remedy)}", soft_wrap=True)
    if report.entry:
        out.print(f"\ntmem can page here; faults='auto' uses the {report.entry} entry.")
    else:
        out.print("\ntmem cannot page here, so a Memory is refused. The marked lines above say what to change.")
    if report.run_entry:
        out.print(f"`tmem run` starts programs here; --faults auto uses the {report.run_entry} entry.")
    else:
        out.print("`tmem run` refuses programs here. The marked lines above say what to change.")


def _mark(finding: Finding) -> str:
    if finding.ok:
        return "[green]ok[/green]"
    return "[red]--[/red]" if finding.needed else "[yellow]! [/yellow]"
