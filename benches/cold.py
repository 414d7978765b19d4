# SPDX-License-Identifier: Apache-2.0
"""What a store takes in all once its pages are cold, beside the kernel's zram with lz4 for the same pages.

`python -m benches.cold [--mib N] [--save]`, as root where zram is to be measured. The loops are compiled:
crates/tmem-store/examples/cold.rs. zram's figure is its own count, `mem_used_total`, of a device with these pages.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benches import machine
from tmem.bench import data, kernel
from tmem.bench.undo import ZRAM_CONTROL, Changes, uninterrupted

FILES = tuple(name for name in data.DATA if name not in ("random", "zeros"))
_PIECE = 1 << 20


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table."""
    ways = ("warm", "cold", "dictionaries")
    form = "{bytes:.0f} ({pack_us:.1f} / {unpack_us:.1f})"
    lines = [
        "| bytes a page (µs packed / unpacked) | zram | as put | cold | cold, with dictionaries | to zram |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        zram = row["zram"]
        part = "-" if zram is None else f"{row['dictionaries']['bytes'] / zram:.2f}"
        cells = (row["data"], "-" if zram is None else f"{zram:.0f}", *(form.format(**row[way]) for way in ways), part)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def in_zram(path: Path) -> float:
    """Return the bytes that zram takes for each page of a file."""
    changes = Changes()
    nbytes = path.stat().st_size
    try:
        with uninterrupted():
            number = (ZRAM_CONTROL / "hot_add").read_text(encoding="ascii").strip()
            changes.will("zram", number)
        block, device = Path(f"/sys/block/zram{number}"), Path(f"/dev/zram{number}")
        (block / "comp_algorithm").write_text("lz4", encoding="ascii")
        (block / "disksize").write_text(str(nbytes), encoding="ascii")
        end = time.monotonic() + 5
        while not device.exists() and time.monotonic() < end:
            time.sleep(0.01)
        with path.open("rb") as source, device.open("wb", buffering=0) as target:
            while piece := source.read(_PIECE):
                target.write(piece)
            os.fsync(target.fileno())
        return int((block / "mm_stat").read_text(encoding="ascii").split()[2]) / (nbytes / 4096)
    finally:
        changes.undo()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64, help="of each data set")
    parser.add_argument("--save", action="store_true", help="keep the raw results beside this script")
    given = parser.parse_args()
    missing, remedy = kernel.zram_missing("lz4") if os.geteuid() == 0 else ("zram needs root", "run it as root")
    if missing:
        print(f"without zram: {missing}; {remedy}")
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / name for name in FILES]
        for file in files:
            with data.make(file.name, given.mib << 20, 1) as source:
                file.write_bytes(os.pread(source.fd, source.nbytes, 0))
        printed = machine.run_example("tmem-store", "cold", *map(str, files))
        zram = {file.name: None if missing else in_zram(file) for file in files}
    rows = [json.loads(line) for line in printed.splitlines()]
    rows = [row | {"zram": zram[row["data"]]} for row in rows]
    result = {"machine": machine.describe(), "mib": given.mib, "rows": rows}
    print(table(result))
    if given.save:
        machine.save("cold", result)


if __name__ == "__main__":
    main()
