# SPDX-License-Identifier: Apache-2.0
"""What the kernel's interface costs by itself: faults through SIGBUS and transfers, alone and beside a running thread.

`python -m benches.kernel_edge [--save]`. The loops are compiled: crates/tmem-sys/examples/edge.rs. Nothing is packed
there and nothing looked up, so a page that comes back from the store by a random fault cannot cost less.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from benches import machine


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table."""
    rows = {(row["step"], row["running"]): row for row in result["rows"]}
    lines = ["| ns a page (spread) | alone | beside a running thread |", "| --- | ---: | ---: |"]
    for step in dict.fromkeys(step for step, _ in rows):
        shown = (rows[step, running] for running in (1, 2))
        cells = (f"{row['ns']:.0f} ({row['ns_rounds'][0]:.0f}-{row['ns_rounds'][-1]:.0f})" for row in shown)
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    result = {"machine": machine.describe()} | json.loads(machine.run_example("tmem-sys", "edge"))
    print(table(result))
    if given.save:
        machine.save("kernel_edge", result)


if __name__ == "__main__":
    main()
