# SPDX-License-Identifier: Apache-2.0
"""A million put/get pairs at the page store, raw and packed, beside copying the same pages with memcpy, in one run.

`python -m benches.put_get_vs_memcpy [--pairs N] [--save]`. The loop is compiled: crates/tmem-store/examples/put_get.rs.
"""

from __future__ import annotations

import argparse
import json

from benches import machine

ROWS = {"raw_put": "copy_in", "raw_get": "copy_out", "put": "lz4_pack", "get": "lz4_unpack"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    printed = machine.run_example("tmem-store", "put_get", "--pairs", str(given.pairs))
    result = {"machine": machine.describe()} | json.loads(printed)
    print("| ns a page | store (spread) | beside it | | ratio |\n| --- | ---: | --- | ---: | ---: |")
    for ours, beside in ROWS.items():
        rounds = result[f"{ours}_ns_rounds"]
        mine, other = result[f"{ours}_ns"], result[f"{beside}_ns"]
        spread = f"{min(rounds):.0f}-{max(rounds):.0f}"
        print(
            f"| {ours.replace('_', ' ')} | {mine:.0f} ({spread}) | {beside.replace('_', ' ')} | {other:.0f} |", end=""
        )
        print(f" {mine / other:.2f} |")
    if given.save:
        machine.save("put_get_vs_memcpy", result)


if __name__ == "__main__":
    main()
