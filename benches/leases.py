# SPDX-License-Identifier: Apache-2.0
"""What a lease costs: the round trip beside many guests, a fill whose store grows by leases, a revocation.

`python -m benches.leases [--rounds N] [--save]`. Each part starts a daemon of its own.
- *round trip*: one guest asks for an extent and gives it back, again and again, while so many are connected; then all
  of them ask at once, and each waits for its own. Times are those that a guest in Python sees, packing its messages
  included; of these, what the kernel takes to allocate and clear an extent is measured by itself, in this process.
- *fill*: the same 1 GiB of pages are put into a persistent pool of an embedded host and into one over leases, each in a
  process of its own, in turns, and every page is read back. The same with arrays: a Memory whose store lies in leases,
  beside one whose budget has room for the same store.
- *revocation*: a guest that is stopped (SIGSTOP) holds 1 GiB of ephemeral extents, every page written; the time from
  the operator's word until the kernel has the memory back.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benches import machine
from tests.host.daemonprocess import Daemon
from tests.hostguest import RawGuest

MIB = 1 << 20
GUESTS = (1, 50, 200)
ASKED = 2000
EXTENT = 4 * MIB

Row = dict[str, Any]


def percentiles(seconds: Sequence[float]) -> Row:
    """Return p50, p99 and the most, in microseconds."""
    ordered = sorted(seconds)
    return {
        "p50_us": statistics.median(ordered) * 1e6,
        "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
        "most_us": ordered[-1] * 1e6,
        "n": len(ordered),
    }


def allocation() -> Row:
    """What the kernel takes for an extent, whoever asks."""
    times = []
    for _ in range(200):
        begin = time.perf_counter()
        fd = os.memfd_create("tmem-extent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.posix_fallocate(fd, 0, EXTENT)
        times.append(time.perf_counter() - begin)
        os.close(fd)
    return percentiles(times)


def round_trips(directory: Path, count: int) -> Row:
    """Measure with so many guests connected: one at a time, then all at once."""
    with ExitStack() as stack:
        stack.enter_context(Daemon(directory, "--capacity", "8G"))
        path = directory / "host.sock"
        guests = [stack.enter_context(RawGuest(path)) for _ in range(count)]
        chance = random.Random(1)
        alone = []
        for _ in range(ASKED):
            guest = chance.choice(guests)
            begin = time.perf_counter()
            got = guest.lease(1)
            alone.append(time.perf_counter() - begin)
            if got != 1:
                raise RuntimeError("a lease was refused")
            guest.give_all()
        burst = []
        for _ in range(max(1, 400 // count)):
            begin = time.perf_counter()
            for guest in guests:
                guest.ask_lease(1)
            for guest in guests:
                if guest.granted() != 1:
                    raise RuntimeError("a lease was refused")
                burst.append(time.perf_counter() - begin)
            for guest in guests:
                guest.give_all()
        return {"guests": count, "alone": percentiles(alone), "burst": percentiles(burst)}


FILL = """
import json, sys, time
import numpy as np
import tmem
kind, path, mib, ram = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pages = mib << 8
chance = np.random.default_rng(7)
block = (chance.integers(0, 1000, (1024, 512)) + np.arange(512)).astype("u8")  # about a quarter when packed
told = {}
if kind.startswith("pool"):
    guest = None
    if kind == "pool-leased":
        host = guest = tmem.Guest(path, capacity="128M")  # its tables; what it stores lies in leases
        while guest.stats().state != "connected":
            time.sleep(0.01)
    else:
        host = tmem.Host(ram)
    pool = tmem.Pool(host=host, dedup="off")
    begin = time.perf_counter()
    for n in range(0, pages, 256):
        block[n % 1024 : n % 1024 + 256, 0] = np.arange(n, n + 256)
        if pool.put_many(1, range(n, n + 256), block[n % 1024 : n % 1024 + 256]).any():
            raise SystemExit("a put was refused")
    told["seconds"] = time.perf_counter() - begin
    got = np.empty((256, 512), "u8")
    for n in range(0, pages, 256):
        block[n % 1024 : n % 1024 + 256, 0] = np.arange(n, n + 256)
        pool.get_many(1, range(n, n + 256), got)
        if not np.array_equal(got, block[n % 1024 : n % 1024 + 256]):
            raise SystemExit("a page is not what was put")
    told["leased"] = guest.stats().held * guest.stats().extent_bytes if guest else 0
else:
    memory = tmem.Memory(ram, swap=None, host=path if kind == "memory-leased" else None, background=False)
    a = memory.zeros((pages, 512), "u8")
    begin = time.perf_counter()
    for n in range(0, pages, 1024):
        block[:, 0] = np.arange(n, n + 1024)
        a[n : n + 1024] = block
    told["seconds"] = time.perf_counter() - begin
    stats = memory.stats().as_dict()
    told["leased"], told["store"], told["evictions"] = stats["leased"], stats["store_bytes"], stats["evictions"]
    if stats["overshoot_events"]:
        raise SystemExit("a page had no place")
    for n in range(0, pages, 1024):
        block[:, 0] = np.arange(n, n + 1024)
        if not np.array_equal(a[n : n + 1024], block):
            raise SystemExit("a page is not what was written")
print(json.dumps(told))
"""


def fill(kind: str, path: Path, mib: int, ram: int) -> Row:
    """Fill one store in a process of its own."""
    command = [sys.executable, "-c", FILL, kind, str(path), str(mib), str(ram)]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    told: Row = json.loads(out)
    return told


def fills(directory: Path, rounds: int, mib: int) -> list[Row]:
    """Compare fills, in turns; the ratio of each pair, leased to embedded."""
    rows = []
    with Daemon(directory, "--capacity", "4G"):
        path = directory / "host.sock"
        for what, ram in (("pool", 2 << 30), ("memory", 64 * MIB)):
            pairs, sizes = [], []
            for n in range(rounds + 1):
                more = 0
                leased = fill(f"{what}-leased", path, mib, ram)
                sizes.append(leased["leased"] / MIB)
                if what == "memory":
                    # A store may have seven tenths of its budget: this is what the same store needs there, and tables.
                    more = int(leased["leased"] / 0.7) + ram // 2
                embedded = fill(f"{what}-embedded", path, mib, ram + more)
                if n % 2:
                    leased = fill(f"{what}-leased", path, mib, ram)
                if n:  # the first warms the machine's memory
                    pairs.append((leased["seconds"], embedded["seconds"]))
            ratios = [a / b for a, b in pairs]
            rows.append(
                {
                    "what": what,
                    "mib": mib,
                    "leased_mib": sizes[-1],
                    "leased_s": [a for a, _ in pairs],
                    "embedded_s": [b for _, b in pairs],
                    "ratio": statistics.median(ratios),
                    "spread": [min(ratios), max(ratios)],
                }
            )
    return rows


HOLDER = """
import os, sys
from tests.hostguest import RawGuest
with RawGuest(sys.argv[1]) as guest:
    left = int(sys.argv[2])
    while left:
        left -= guest.lease(min(32, left), kind=1)
    for fd in guest.extents()[1]:
        os.pwrite(fd, b"x" * (4 << 20), 0)
    print("ready", flush=True)
    sys.stdin.readline()
"""


def revocation(directory: Path, rounds: int, mib: int, *, stopped: bool) -> Row:
    """Take ephemeral memory from a guest that holds `mib` of it."""
    times = []
    with Daemon(directory, "--capacity", f"{2 * mib}M") as daemon:
        for _ in range(rounds):
            command = [sys.executable, "-c", HOLDER, str(daemon.path), str(mib * MIB // EXTENT)]
            holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=machine.ROOT)
            try:
                if holder.stdout is None or holder.stdout.readline() != b"ready\n":
                    raise RuntimeError("the guest got no memory")
                if stopped:
                    holder.send_signal(signal.SIGSTOP)
                held = daemon.blocks()
                if held < mib * MIB:
                    raise RuntimeError(f"only {held} bytes are held")
                begin = time.perf_counter()
                daemon.ask("set", guest=f"pid:{holder.pid}", cap=0)
                while daemon.blocks():
                    time.sleep(0.0005)
                times.append(time.perf_counter() - begin)
            finally:
                holder.kill()
                holder.wait()
    return {"mib": mib, "stopped": stopped, "seconds": times, "median_s": statistics.median(times)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and save where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024, help="size of the fills and of the revocation")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args(arguments)

    def beside(work: Callable[[Path], Any]) -> Any:
        with tempfile.TemporaryDirectory() as directory:
            return work(Path(directory))

    result: Row = {"machine": machine.describe(), "rounds": options.rounds, "allocation": allocation()}
    result["round_trips"] = [beside(lambda d, n=n: round_trips(d, n)) for n in GUESTS]  # type: ignore[misc]
    result["fills"] = beside(lambda d: fills(d, options.rounds, options.mib))
    result["revocation"] = [
        beside(lambda d, s=stopped: revocation(d, options.rounds, options.mib, stopped=s))  # type: ignore[misc]
        for stopped in (False, True)
    ]
    print(json.dumps({k: v for k, v in result.items() if k != "machine"}, indent=1))
    if options.save:
        machine.save("leases", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
