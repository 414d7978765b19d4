# SPDX-License-Identifier: Apache-2.0
"""How puts and gets at one host scale from one thread to two, beside two threads with a host each, in one run; and how
long a get takes while another thread has the host move, forget or flush much.

`python -m benches.host_scaling [--rounds N] [--ms N] [--save]`. The loops are compiled:
crates/tmem-store/examples/scaling.rs and waits.rs. Where others use the machine, two threads do not get two
processors: then read the times they ran, and what two hosts reach.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from benches import machine


def table(rows: list[dict[str, Any]]) -> str:
    """Return the result as a Markdown table."""
    head = (
        "| data, verb | ns a page | two threads | two hosts | two threads, as they ran | two hosts, as they ran |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    return "\n".join([head, *(_row(row) for row in rows)])


def _row(row: dict[str, Any]) -> str:
    passed = [f"{row[way]:.2f} ({_spread(row, way, 'rounds')})" for way in ("shared", "apart")]
    ran = [f"{row[f'{way}_ran']:.2f} ({_spread(row, way, 'ran_rounds')})" for way in ("shared", "apart")]
    cells = [f"{row['data']} {row['verb']}", f"{row['ns']:.0f}", *passed, *ran]
    return f"| {' | '.join(cells)} |"


def _spread(row: dict[str, Any], way: str, which: str) -> str:
    """Return the least and the most of a round against one thread in the same round."""
    ratios = [two / one for two, one in zip(row[f"{way}_{which}"], row[f"one_{which}"], strict=True)]
    return f"{min(ratios):.2f}-{max(ratios):.2f}"


def waits(rows: list[dict[str, Any]]) -> str:
    """Return the times of gets, in nanoseconds, as a Markdown table."""
    head = "| a get, ns, beside | p50 | p99 | p99.9 | most |\n| --- | ---: | ---: | ---: | ---: |"
    lines = ("| {beside} | {p50} | {p99} | {p999} | {max} |".format(**row) for row in rows)
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--ms", type=int, default=40, help="of each measurement")
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    before = os.getloadavg()
    printed = machine.run_example("tmem-store", "scaling", "--rounds", str(given.rounds), "--ms", str(given.ms))
    rows = [json.loads(line) for line in printed.splitlines()]
    waited = [json.loads(line) for line in machine.run_example("tmem-store", "waits").splitlines()]
    load = {"load_before": before, "load_after": os.getloadavg()}
    result = {"machine": machine.describe()} | load | {"rows": rows, "waits": waited}
    print(table(rows), waits(waited), sep="\n\n")
    if given.save:
        machine.save("host_scaling", result)


if __name__ == "__main__":
    main()
