# SPDX-License-Identifier: Apache-2.0
"""What the store's packers cost and save, page by page, beside LZ4 alone: on numbers and on the data of `tmem bench`.

`python -m benches.packers [--mib N] [--save]`. The loops are compiled: crates/tmem-store/examples/codecs.rs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benches import machine
from tmem.bench import data

FILES = ("flights", "heap", "text")


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table."""
    form = "{pack_ns:.0f} / {unpack_ns:.0f} / {ratio:.2f}"
    head = "| ns packed / unpacked / ratio | LZ4 alone | the store's choice | of them |\n| --- | ---: | ---: | --- |"
    rows = (
        (row["data"], form.format(**row["lz4"]), form.format(**row["ours"]), row["of_them"]) for row in result["rows"]
    )
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64, help="of each data set that is made")
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / name for name in FILES]
        for file in files:
            with data.make(file.name, given.mib << 20, 1) as source:
                file.write_bytes(os.pread(source.fd, source.nbytes, 0))
        printed = machine.run_example("tmem-store", "codecs", *map(str, files))
    rows = [json.loads(line) for line in printed.splitlines()]
    result = {"machine": machine.describe(), "mib": given.mib, "rows": rows}
    print(table(result))
    if given.save:
        machine.save("packers", result)


if __name__ == "__main__":
    main()
