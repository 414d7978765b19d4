# SPDX-License-Identifier: Apache-2.0
"""Selfish guests on one host: what they settle at under weights and caps, and who gives way to whom, and how soon.

`python -m benches.selfish [--rounds N] [--seconds S] [--save]`. Guests are processes with arrays that are larger than
their RAM, a swap file each, and a host with less memory than they would take. Nothing here is told to give: what moves,
the policy moves.
- *weights*: three guests that touch all they have, over and over, with weights 1, 2 and 4; the one of weight 1 comes
  first and takes everything. How long after the last came each is within 5 % of its share and stays there; then a cap
  for the greediest.
- *idle*: one guest fills the host and sleeps until what it has counts as idle; another comes and works. What each has
  after a while, by policy, and how long the busy one waited until it had half, and until it had more than the other.
- *balloon*: the same with RAM in place of leases: a guest grows only by what another has given. How long the needy one
  waits for so many MiB, beside the same MiB from the host's free memory, from a guest's ephemeral leases, from its
  persistent ones.
Figures go to the standard output as JSON, and as a table to the standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benches import machine
from tests.host.daemonprocess import Daemon
from tests.host.flock import Flock

MIB = 1 << 20
LOOK = 0.05
WEIGHTS = (1, 2, 4)
NEAR = 0.05
CAPACITY = 112 * MIB
ASLEEP = 32.0
"""What a guest stored or touched in the last half minute counts as active; a bit longer than that."""
IDLE_POLICIES = ("fixed", "weighted", "idle-tax", "stall")

Row = dict[str, Any]
Seen = list[tuple[float, dict[str, int]]]


@contextmanager
def host_of(policy: str, capacity: int) -> Iterator[tuple[Daemon, Flock, Path]]:
    """A daemon and a nursery of guests that page to files of their own."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Daemon(directory, "--capacity", str(capacity), "--extent", "1M", "--policy", policy) as daemon:
            flock = Flock(directory, host=daemon.path, swap=directory)
            try:
                yield daemon, flock, directory
            finally:
                # They may be pressing for minutes still.
                for guest in list(flock.guests):
                    flock.kill(guest)
                flock.end()


def leases(daemon: Daemon) -> dict[str, int]:
    """Return what each guest holds, by name."""
    guests = daemon.ask("list", guest=None, long=False)["guests"]
    return {g["name"]: g["persistent_bytes"] + g["ephemeral_bytes"] + g["shared_bytes"] for g in guests}


def watch(daemon: Daemon, seconds: float, until: Callable[[dict[str, int]], bool] | None = None) -> Seen:
    """Look again and again; the readings, each with its time."""
    begin, seen = time.monotonic(), []
    while (now := time.monotonic() - begin) < seconds:
        seen.append((now, leases(daemon)))
        if until is not None and until(seen[-1][1]):
            break
        time.sleep(LOOK)
    return seen


def settled_at(seen: Seen, shares: dict[str, int]) -> float | None:
    """Return from when on every guest was within 5 % of its share, to the end; None where it never came to that."""
    last = None
    for moment, held in reversed(seen):
        if any(abs(held.get(name, 0) - share) > max(NEAR * share, MIB) for name, share in shares.items()):
            break
        last = moment
    return last


def weights(seconds: float) -> Row:
    """Three hogs, the smallest first."""
    shares, alone = {f"hog-{w}": CAPACITY * w // sum(WEIGHTS) for w in WEIGHTS}, 0
    with host_of("weighted", CAPACITY) as (daemon, flock, _):
        for weight in WEIGHTS:
            name = f"hog-{weight}"
            (guest,) = flock.add(1, name=name)
            guest.ask("stats")
            daemon.ask("set", guest=name, weight=weight)
            if weight == 1:
                guest.ask("grow", mib=384)
                alone = leases(daemon)[name]
            else:
                guest.tell("grow", mib=384)
            guest.tell("press", seconds=10 * seconds)
        seen = watch(daemon, seconds)
        before = seen[-1][1]
        # The cap of the greediest: from here on it may have less than its share.
        cap = 24 * MIB
        daemon.ask("set", guest="hog-4", cap=cap)
        capped = watch(daemon, seconds)
        reached = next((t for t, held in capped if held.get("hog-4", 0) <= cap), None)
        beyond = max((held.get("hog-4", 0) for t, held in capped if reached is not None and t >= reached), default=0)
        host = daemon.ask("list", guest=None, long=False)["host"]
        return {
            "shares_mib": {name: share / MIB for name, share in shares.items()},
            "first_alone_mib": alone / MIB,
            "settled_s": settled_at(seen, shares),
            "held_mib": {name: held / MIB for name, held in before.items()},
            "off_by": {name: before.get(name, 0) / share - 1 for name, share in shares.items()},
            "cap_mib": cap / MIB,
            "cap_reached_s": reached,
            "most_after_cap_mib": beyond / MIB,
            "most_of_host_mib": max(sum(held.values()) for _, held in seen + capped) / MIB,
            "counters": host["counters"],
        }


def idle(policy: str, seconds: float) -> Row:
    """One sleeps on all of the host, one works."""
    with host_of(policy, CAPACITY) as (daemon, flock, _):
        (sleeper,) = flock.add(1, name="sleeper")
        sleeper.ask("grow", mib=512)
        before = leases(daemon)["sleeper"]
        time.sleep(ASLEEP)
        (worker,) = flock.add(1, name="worker")
        worker.tell("grow", mib=256)
        worker.tell("press", seconds=seconds)
        seen = watch(daemon, seconds)
        half = next((t for t, held in seen if held.get("worker", 0) >= 0.45 * CAPACITY), None)
        more = next((t for t, held in seen if held.get("worker", 0) > held.get("sleeper", 0) * 1.2), None)
        end = seen[-1][1]
        return {
            "policy": policy,
            "sleeper_before_mib": before / MIB,
            "sleeper_mib": end.get("sleeper", 0) / MIB,
            "worker_mib": end.get("worker", 0) / MIB,
            "worker_half_s": half,
            "worker_ahead_s": more,
        }


def needy(way: str, rounds: int) -> Row:
    """How long a guest in need waits for 32 MiB, by where they come from."""
    want, times = 32 * MIB, []
    for _ in range(rounds):
        policy = "balloon" if way == "balloon" else "weighted"
        with host_of(policy, CAPACITY) as (daemon, flock, _):
            (other,) = flock.add(1, name="other", ram="160M" if way == "balloon" else "16M")
            if way == "ephemeral":
                other.ask("pool", mib=512, host=str(daemon.path))
            elif way != "free":
                other.ask("grow", mib=512)
            (guest,) = flock.add(1, name="needy", ram="32M" if way == "balloon" else "16M")
            guest.ask("stats")
            if way == "balloon":
                times.append(_ballooned(daemon, guest, want))
                continue
            begin = time.monotonic()
            guest.tell("grow", mib=256)
            guest.tell("press", seconds=60)  # it goes on wanting what it has not got yet
            seen = watch(daemon, 60, lambda held: held.get("needy", 0) >= want)
            if seen[-1][1].get("needy", 0) < want:
                raise RuntimeError(f"{way}: the guest in need got {seen[-1][1]} within a minute")
            times.append(time.monotonic() - begin)
            flock.kill(guest)
    return {"from": way, "mib": want / MIB, "seconds": times, "median_s": statistics.median(times)}


def _ballooned(daemon: Daemon, guest: Any, want: int) -> float:
    before = _ram(daemon, "needy")
    begin = time.monotonic()
    guest.tell("grow", mib=256)
    guest.tell("press", seconds=60)
    while _ram(daemon, "needy") < before + want:
        if time.monotonic() - begin > 120:
            raise RuntimeError(f"ballooning: the guest in need has {_ram(daemon, 'needy')} after two minutes")
        time.sleep(LOOK)
    return time.monotonic() - begin


def _ram(daemon: Daemon, name: str) -> int:
    guests = daemon.ask("list", guest=None, long=True)["guests"]
    return next((int(g["ram"]) for g in guests if g["name"] == name), 0)


def show(result: Row) -> None:
    """Print what came out, for people."""
    console = Console(stderr=True)
    columns = {
        "weights": ("guest", "share MiB", "has MiB", "off by", "all settled after s", "cap MiB, reached after s"),
        "idle": ("policy", "sleeper had MiB", "sleeper has", "worker has", "worker had half after s", "more after s"),
        "needy": ("from", "MiB", "median s", "each s"),
    }
    for part, names in columns.items():
        if part in result:
            table = Table(*names, title=part)
            for row in result[part]:
                for cells in _cells(part, row):
                    table.add_row(*cells)
            console.print(table)


def _cells(part: str, row: Row) -> Iterator[tuple[str, ...]]:
    def number(value: float | None) -> str:
        return "never" if value is None else f"{value:.1f}"

    if part == "weights":
        for name, share in row["shares_mib"].items():
            capped = name == "hog-4"
            cap = f"{number(row['cap_mib'])}, {number(row['cap_reached_s'])}" if capped else ""
            held = row["held_mib"].get(name, 0)
            yield name, number(share), number(held), f"{row['off_by'][name]:+.1%}", number(row["settled_s"]), cap
    elif part == "idle":
        mib = [number(row[key]) for key in ("sleeper_before_mib", "sleeper_mib", "worker_mib")]
        yield row["policy"], *mib, number(row["worker_half_s"]), number(row["worker_ahead_s"])
    else:
        each = ", ".join(f"{seconds:.2f}" for seconds in row["seconds"])
        yield row["from"], number(row["mib"]), f"{row['median_s']:.2f}", each


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and save where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each part is watched")
    parser.add_argument("--only", nargs="*", choices=("weights", "idle", "needy"), default=None)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args(arguments)
    wanted = options.only or ("weights", "idle", "needy")
    result: Row = {"machine": machine.describe(), "seconds": options.seconds, "rounds": options.rounds}
    if "weights" in wanted:
        result["weights"] = [weights(options.seconds) for _ in range(options.rounds)]
    if "idle" in wanted:
        result["idle"] = [idle(policy, options.seconds) for policy in IDLE_POLICIES for _ in range(options.rounds)]
    if "needy" in wanted:
        result["needy"] = [needy(way, options.rounds) for way in ("free", "ephemeral", "persistent", "balloon")]
    print(json.dumps({k: v for k, v in result.items() if k != "machine"}, indent=1))
    show(result)
    if options.save:
        machine.save("selfish", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
