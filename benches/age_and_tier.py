# SPDX-License-Identifier: Apache-2.0
"""Where pages of each age are: a trace of incompressible and compressible pages written in turns, and a plot of it.

    python -m benches.age_and_tier [--ram 64M] [--times 4] [--save] [--plot FILE.png]

Pages are written once each, block by block, every other block of random bytes, to several times the budget. Nothing is
read, so that a page's age is the order in which it was written. Fifteen sixteenths in, what is stored is packed as
tightly as pages are that stay cold. It prints for each kind of page how many are in each tier, and how far the order is
from perfect: how many pages are on the swap device though one is not that is older, by more than one batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tmem
from benches import machine
from tmem.counters import PAGE

BLOCK = 64  # pages
BATCH = 256  # pages of difference in age that are no difference: what moves at once
KINDS = ("compressible", "random bytes")
COLOURS = ("#0072B2", "#D55E00")


def pages_of(block: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Make a block of pages, every other one of random bytes."""
    if block % 2:
        return random.integers(0, 256, (BLOCK, PAGE), np.uint8)
    words = random.integers(97, 123, (64, 8), np.uint8)
    return words[random.integers(0, 64, (BLOCK, PAGE // 8))].reshape(BLOCK, PAGE)


def trace(ram: str, times: float) -> dict[str, Any]:
    """Write the pages, and return the tier of each, youngest first, and its kind."""
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as directory:
        memory = tmem.Memory(ram, swap=(directory, "8G"), background=False, dedup="off")
        blocks = int(memory.ram * times) // (BLOCK * PAGE)
        array = memory.empty((blocks * BLOCK, PAGE), np.uint8)
        for block in range(blocks):
            array[block * BLOCK : (block + 1) * BLOCK] = pages_of(block, random)
            if block == blocks * 15 // 16:
                memory.settle()
        tiers = tmem.tiers(array)[::-1]
        kinds = (np.arange(len(tiers)) // BLOCK % 2)[::-1]
        again = np.random.default_rng(1)
        same = all(
            np.array_equal(array[block * BLOCK : (block + 1) * BLOCK], pages_of(block, again))
            for block in range(blocks)
        )
        broken = memory.check()
        del array
        memory.close()
    if not same or broken:
        raise SystemExit(f"a page came back changed, or a law is broken: {broken}")
    return {"tiers": tiers, "kinds": kinds}


def inversions(tiers: npt.NDArray[np.uint8]) -> int:
    """Count pages on the swap device that are younger, by more than a batch, than the oldest page that is not there."""
    near = np.flatnonzero(tiers != tmem.TIERS.index("swap"))
    if not len(near):
        return 0
    return int((np.flatnonzero(tiers == tmem.TIERS.index("swap")) < near[-1] - BATCH).sum())


def draw(tiers: npt.NDArray[np.uint8], kinds: npt.NDArray[np.int64], path: Path) -> None:
    """Draw age against tier, a lane for each tier."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - not for a run that draws nothing

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    for kind, (name, colour) in enumerate(zip(KINDS, COLOURS, strict=True)):
        at = np.flatnonzero(kinds == kind)
        lane = tiers[at] + (0.12 if kind else -0.12)
        axis.plot(at, lane, "|", color=colour, markersize=7, markeredgewidth=0.4, label=name)
    axis.set_yticks(range(1, len(tmem.TIERS)), tmem.TIERS[1:])
    axis.set_ylim(len(tmem.TIERS) - 0.5, 0.5)
    axis.set_xlabel("age: pages that were written later")
    axis.set_title("The oldest is farthest, whatever its form")
    axis.legend(loc="lower left", markerscale=2)
    figure.savefig(path, format="png", dpi=110)


def main() -> int:
    """Trace, print, save and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ram", default="64M")
    parser.add_argument("--times", type=float, default=4, help="of the budget, how much is written")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    found = trace(options.ram, options.times)
    tiers, kinds = found["tiers"], found["kinds"]
    rows = {
        kind: {tier: int(((tiers == place) & (kinds == number)).sum()) for place, tier in enumerate(tmem.TIERS)}
        for number, kind in enumerate(KINDS)
    }
    oldest = {
        tier: int(np.flatnonzero(tiers == place)[-1]) for place, tier in enumerate(tmem.TIERS) if (tiers == place).any()
    }
    result = {
        "machine": machine.describe(),
        "pages": len(tiers),
        "tiers": rows,
        "age_of_oldest": oldest,
        "inversions": inversions(tiers),
    }
    print(json.dumps(result, indent=1))
    if options.save:
        machine.save("age_and_tier", result)
    if options.plot:
        draw(tiers, kinds, options.plot)
    return 0 if result["inversions"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
