# SPDX-License-Identifier: Apache-2.0
"""What the store's packers cost and save, page by page, beside LZ4 alone: on numbers and on the data of `tmem bench`.

`python -m benches.packers [--mib N] [--save]`. The loops are compiled: crates/tmem-store/examples/codecs.rs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benches import machine
from tmem.bench import data

RESULTS = Path(__file__).parent / "results"
FILES = ("flights", "heap", "text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64, help="of each data set that is made")
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    command = ["cargo", "run", "--quiet", "--release", "-p", "tmem-store", "--example", "codecs", "--", "--json"]
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        for name in FILES:
            source = stack.enter_context(data.make(name, given.mib << 20, 1))
            path = Path(directory) / name
            path.write_bytes(os.pread(source.fd, source.nbytes, 0))
            command.append(str(path))
        done = subprocess.run(command, cwd=machine.ROOT, stdout=subprocess.PIPE, check=True, text=True)
    result = {"machine": machine.describe(), "mib": given.mib}
    result |= {"rows": [json.loads(line) for line in done.stdout.splitlines()]}
    print("| ns packed / unpacked / ratio | LZ4 alone | the store's choice | of them |\n| --- | ---: | ---: | --- |")
    for row in result["rows"]:
        lz4, ours = ("{pack_ns:.0f} / {unpack_ns:.0f} / {ratio:.2f}".format(**row[who]) for who in ("lz4", "ours"))
        print(f"| {row['data']} | {lz4} | {ours} | {row['of_them']} |")
    if given.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "packers.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
