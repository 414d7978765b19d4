# SPDX-License-Identifier: Apache-2.0
"""Many guests at once, real processes whose pages lie in leased extents: they join, store, and die at any moment."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.host.daemonprocess import Daemon, wait_for
from tests.host.flock import Flock

MIB = 1 << 20
# `make stress` runs the long one for ten minutes.
SECONDS = int(os.environ.get("TMEM_CHURN_SECONDS", "60"))
KILLS = int(os.environ.get("TMEM_CHURN_KILLS", "20"))


def verify_accounts(daemon: Daemon, flock: Flock) -> dict[str, int]:
    """Compare what guests, the daemon's ledger and the kernel say, at a moment when nothing changes.

    Guests give back what lies idle by themselves, so they are asked before and after.
    """
    seen: dict[str, int] = {}

    def is_settled() -> bool:
        before = flock.all("stats")
        host, blocks = daemon.host(), daemon.blocks()
        after = flock.all("stats")
        for name in ("leased_used", "leased"):
            seen[name] = sum(one[name] for one in before)
        seen["ledger"] = host["leased_bytes"]
        same = [one["leased"] for one in before] == [one["leased"] for one in after]
        return bool(same and seen["ledger"] == blocks and host["guests"] == len(flock.guests))

    wait_for(is_settled, "the ledger to be what the memfds hold, and guests to rest")
    stored, leased, held = seen["leased_used"], seen["leased"], seen["ledger"]
    assert stored <= leased <= held, (stored, leased, held)
    return {"stored": stored, "leased": leased, "ledger": held}


@pytest.mark.parametrize(
    ("guests", "seconds"),
    [
        pytest.param(8, 2, id="few"),
        pytest.param(200, SECONDS, id="many", marks=[pytest.mark.long, pytest.mark.timeout(SECONDS * 3 + 400)]),
    ],
)
def test_guests_that_come_and_are_killed_leave_nothing(tmp_path: Path, guests: int, seconds: int) -> None:
    capacity = guests * 12 * MIB
    with Daemon(tmp_path, "--capacity", str(capacity), "--extent", "1M") as daemon:
        flock = Flock(tmp_path, host=daemon.path, swap=tmp_path)
        try:
            _phases(daemon, flock, guests, seconds)
        finally:
            flock.end()
        wait_for(lambda: daemon.host()["leased_bytes"] == 0, "all leases to end")
        # What the dead held is emptied a few extents at a time; until then it is nobody's, and not free either.
        wait_for(lambda: daemon.blocks() == 0, "all that they held to be emptied")
        assert daemon.host()["free_bytes"] == daemon.host()["capacity"]
        assert daemon.host()["counters"]["malformed"] == 0


def _phases(daemon: Daemon, flock: Flock, guests: int, seconds: int) -> None:
    chance = random.Random(os.environ.get("TMEM_STRESS_SEED", "1"))
    flock.add(guests)
    wait_for(lambda: daemon.host()["guests"] == guests, "all guests to join", seconds=120)
    # In each 16 MiB of budget and 24 to 40 of data: what the budget has no room for needs a lease.
    # A few at a time: a guest waits some milliseconds for a lease, and of two hundred at once most would swap.
    for start in range(0, guests, 4):
        flock.all("grow", flock.guests[start : start + 4], mib=24)
    seen = verify_accounts(daemon, flock)
    assert seen["stored"] > guests * MIB, "the pages are not in leased extents"
    end = time.monotonic() + seconds
    memory, descriptors = [], []
    while time.monotonic() < end:
        for guest in flock.guests:
            guest.tell("churn", seconds=min(3.0, seconds / 4), most=40)
        # Some die in the middle of it.
        time.sleep(chance.uniform(0.1, 1.0))
        doomed = chance.sample(flock.guests, k=max(1, guests // 8))
        for guest in doomed:
            flock.kill(guest)
        for guest in flock.guests:
            guest.answer(180.0)
        flock.all("verify")
        verify_accounts(daemon, flock)
        memory.append(daemon.own_memory())
        descriptors.append(daemon.descriptors() - daemon.host()["leased_bytes"] // MIB)
        flock.add(len(doomed))
        flock.all("grow", flock.guests[-len(doomed) :], mib=24)
    assert not [broken for told in flock.all("check") for broken in told["broken"]]
    # The allocator of Python keeps some; what grew with each phase would be more.
    assert memory[-1] < memory[0] + 16 * MIB, memory
    assert max(descriptors) < 3 * guests + 64, descriptors


@pytest.mark.parametrize(
    ("guests", "kills"),
    [
        pytest.param(4, 2, id="some"),
        pytest.param(8, KILLS, id="often", marks=[pytest.mark.long, pytest.mark.timeout(KILLS * 12 + 200)]),
    ],
)
def test_a_killed_daemon_loses_no_page(tmp_path: Path, guests: int, kills: int) -> None:
    chance = random.Random(2)
    daemon = Daemon(tmp_path, "--capacity", f"{guests * 16}M", "--extent", "1M")
    flock = Flock(tmp_path, host=daemon.path, swap=tmp_path)
    try:
        daemon.start()
        flock.add(guests)
        flock.all("grow", mib=24)
        for _ in range(kills):
            for guest in flock.guests:
                guest.tell("churn", seconds=1.0, most=40)
            time.sleep(chance.uniform(0.0, 0.9))
            daemon.kill()
            time.sleep(chance.choice([0.0, 0.0, 0.3]))
            daemon.start()
            for guest in flock.guests:
                guest.answer()
            flock.all("verify")
            wait_for(lambda: daemon.host()["guests"] == guests, "all guests to rejoin")
            verify_accounts(daemon, flock)
        assert not [broken for told in flock.all("check") for broken in told["broken"]]
    finally:
        flock.end()
        daemon.kill()
