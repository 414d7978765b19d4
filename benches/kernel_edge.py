# SPDX-License-Identifier: Apache-2.0
"""What the kernel's interface costs by itself: faults through SIGBUS and transfers, alone and beside a running thread.

`python -m benches.kernel_edge [--save]`. The loops are compiled: crates/tmem-sys/examples/edge.rs. Nothing is packed
there and nothing looked up, so a page that comes back from the store by a random fault cannot cost less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

from benches import machine

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    command = ["cargo", "run", "--quiet", "--release", "-p", "tmem-sys", "--example", "edge", "--", "--json"]
    done = subprocess.run(command, cwd=machine.ROOT, stdout=subprocess.PIPE, check=True, text=True)
    result = {"machine": machine.describe()} | json.loads(done.stdout)
    rows = {(row["step"], row["running"]): row for row in result["rows"]}
    print("| ns a page (spread) | alone | beside a running thread |\n| --- | ---: | ---: |")
    for step in dict.fromkeys(step for step, _ in rows):
        shown = (rows[step, running] for running in (1, 2))
        cells = (f"{row['ns']:.0f} ({row['ns_rounds'][0]:.0f}-{row['ns_rounds'][-1]:.0f})" for row in shown)
        print(f"| {step} | {' | '.join(cells)} |")
    if given.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "kernel_edge.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
