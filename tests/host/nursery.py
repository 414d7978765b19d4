# SPDX-License-Identifier: Apache-2.0
"""Where the guests of a flock come from: everything is imported once, then one process is forked for each order."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from typing import Any

import numpy as np

import tmem

MIB = 1 << 20


class Data:
    """Arrays of a guest, and what they must hold: each page its own pattern, so that a page of another place is seen.

    Numbers of 32 bits in words of 64 look like noise to every codec: a page packs to about half.
    """

    def __init__(self, memory: tmem.Memory) -> None:
        self.memory = memory
        self.arrays: list[tuple[Any, int]] = []
        self.seed = random.SystemRandom().getrandbits(40)

    def grow(self, mib: int) -> None:
        """Make an array of so many MiB whose pages shrink to half."""
        pages = mib * MIB // 4096
        array = self.memory.zeros((pages, 512), "u8")
        self.seed += 1
        self._write(array, self.seed)
        self.arrays.append((array, self.seed))

    @staticmethod
    def expected(pages: range, seed: int) -> Any:
        first = np.arange(pages.start * 512, pages.stop * 512, dtype="u8") + np.uint64(seed << 20)
        mixed = (first ^ (first >> np.uint64(15))) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed >> np.uint64(32)).reshape(-1, 512)

    def _write(self, array: Any, seed: int) -> None:
        for start in range(0, len(array), 256):
            stop = min(start + 256, len(array))
            array[start:stop] = self.expected(range(start, stop), seed)

    def verify(self) -> int:
        """Compare every byte; the number of pages."""
        seen = 0
        for array, seed in self.arrays:
            for start in range(0, len(array), 256):
                stop = min(start + 256, len(array))
                if not np.array_equal(array[start:stop], self.expected(range(start, stop), seed)):
                    raise ValueError(f"pages {start} to {stop} of {len(array)} are not what was written")
                seen += stop - start
        return seen

    def fill_pool(self, mib: int, host: str) -> int:
        """Put so many MiB into an ephemeral pool over leases of its own; how many pages it took."""
        self.guest = tmem.Guest(host, name="pool")
        self.pool = tmem.Pool(persistent=False, host=self.guest)
        taken = 0
        for start in range(0, mib * MIB // 4096, 256):
            pages = self.expected(range(start, start + 256), self.seed)
            taken += 256 - int(np.count_nonzero(self.pool.put_many(1, range(start, start + 256), pages)))
        return taken

    def shrink(self) -> None:
        """Let the oldest array go."""
        del self.arrays[:1]


def stats(memory: tmem.Memory) -> dict[str, Any]:
    told = memory.stats().as_dict()
    return {
        name: told[name]
        for name in ("leased", "leased_used", "store_bytes", "resident", "swap_used", "faults", "evictions")
    }


def act(data: Data, order: dict[str, Any]) -> dict[str, Any]:
    what = order["do"]
    if what == "grow":
        data.grow(int(order["mib"]))
    elif what == "verify":
        return {"pages": data.verify()}
    elif what == "shrink":
        data.shrink()
    elif what == "clear":
        data.arrays.clear()
    elif what == "churn":
        churn(data, float(order["seconds"]), int(order["most"]))
    elif what == "press":
        press(data, float(order["seconds"]))
    elif what == "pool":
        return {"pages": data.fill_pool(int(order["mib"]), order["host"])}
    elif what == "check":
        return {"broken": data.memory.check()}
    elif what != "stats":
        raise ValueError(f"no such order: {what}")
    return stats(data.memory)


def churn(data: Data, seconds: float, most: int) -> None:
    """Grow, shrink and verify at random for so long, up to `most` MiB."""
    end = time.monotonic() + seconds
    chance = random.Random(data.seed)
    while time.monotonic() < end:
        held = sum(array.nbytes for array, _ in data.arrays) // MIB
        step = chance.randint(1, 8)
        if held + step <= most and chance.random() < 0.6:
            data.grow(step)
        elif data.arrays:
            data.verify() if chance.random() < 0.5 else data.shrink()


def press(data: Data, seconds: float) -> None:
    """Touch all there is, over and over, in random order of pieces: a guest that wants all of it in memory."""
    end = time.monotonic() + seconds
    chance = random.Random(data.seed)
    while time.monotonic() < end:
        for array, seed in data.arrays:
            start = chance.randrange(0, max(1, len(array) - 64))
            stop = min(start + 64, len(array))
            if not np.array_equal(array[start:stop], data.expected(range(start, stop), seed)):
                raise ValueError(f"pages {start} to {stop} of {len(array)} are not what was written")


def serve(order: dict[str, Any], common: dict[str, str]) -> int:
    """Be one guest until the test lets the pipe go."""
    orders = open(order["in"], encoding="utf-8")  # noqa: PTH123, SIM115 - for the life of the process
    out = open(order["out"], "w", encoding="utf-8")  # noqa: PTH123, SIM115
    told = common | order["memory"]
    memory = tmem.Memory(
        told.get("ram", "16M"), swap=told.get("swap", "none"), host=told["host"], name=told.get("name", "guest")
    )
    data = Data(memory)
    for line in orders:
        try:
            answer = act(data, json.loads(line))
        except (ValueError, MemoryError) as error:
            answer = {"failed" if isinstance(error, MemoryError) else "wrong": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)
    return 0


def main() -> int:
    common: dict[str, str] = json.loads(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                code = serve(order, common)
            except BaseException as error:  # noqa: BLE001 - told, and the process ends
                print(f"guest {os.getpid()}: {type(error).__name__}: {error}", file=sys.stderr)
                code = 3
            os._exit(code)
        print(pid, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
