# SPDX-License-Identifier: Apache-2.0
"""Guests within limits: their budget as the kernel counts it, the program's own numbers of files, address space."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.host.guestdaemon import ENV, KilledDaemon

MIB = 1 << 20

FILL = """
import json, os, resource, sys, threading, time
import numpy as np, tmem
from tests.host import test_guest_memory
test_guest_memory.values = test_guest_memory.values.__wrapped__  # what it keeps would count here
from tests.host.test_guest_memory import MIB, compare, fill, values

def resident():
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return sum(int(lines[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))
"""

BUDGET = """
RAM = 64 * MIB
values(0)
plain = resident() + 2 * 8 * MIB  # what one block takes while it is made
memory = tmem.Memory(RAM, swap=None, host=sys.argv[1], faults=sys.argv[2])
most, ended = 0, threading.Event()

def watch():
    global most
    while not ended.wait(0.001):
        # Leases are looked at before and after: one that comes or goes meanwhile counts.
        before, now = memory.stats().leased, resident()
        most = max(most, now - plain - max(before, memory.stats().leased))

watcher = threading.Thread(target=watch)
watcher.start()
arrays = fill(memory, 24)
compare(arrays)
leased = memory.stats().leased
del arrays[::2]
for seed, array in enumerate(arrays):
    assert np.array_equal(array, values(2 * seed + 1))
ended.set()
watcher.join()
print(json.dumps({"most": most, "leased": leased}))
"""

FILES = """
soft, hard = int(sys.argv[3]), int(sys.argv[4])
memory = tmem.Memory("32M", swap="256M", host=sys.argv[1], faults=sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
arrays = fill(memory, 24)
opened = []
try:
    while True:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
leased, limit = memory.stats().leased, resource.getrlimit(resource.RLIMIT_NOFILE)
compare(arrays)
more = fill(memory, 2, 100)
compare(more, 100)
print(json.dumps({"leased": leased, "files": len(opened), "highest": max(opened), "limit": limit}))
"""

CHILD = """
memory = tmem.Memory("48M", swap="512M", host=sys.argv[1], faults=sys.argv[2])
arrays = fill(memory, 24)
leased = memory.stats().leased
child = os.fork()
if child == 0:
    memory.resize("44M")
    more = fill(memory, 2, 100)
    compare(more, 100)
    stats = memory.stats()
    numbers = {"leased": leased, "used": stats.used, "overshot": stats.overshoot_events, "broken": memory.check()}
    compare(arrays)
    os.write(1, json.dumps(numbers).encode())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
compare(arrays)
"""

SPACE = """
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
guest = tmem.Guest(host=sys.argv[1], capacity="128M")
kept, cache = tmem.Pool(persistent=True, host=guest), tmem.Pool(persistent=False, host=guest)
page, end = os.urandom(4096), time.monotonic() + 20
while guest.stats().held < 2 and time.monotonic() < end:
    for n in range(500):
        assert kept.put(1, n, page)
        cache.put(1, n, page)
assert all(kept.get(1, n) == page for n in range(500))
print(json.dumps({"held": guest.stats().held}))
"""


def run(program: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-c", FILL + program, *map(str, arguments)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    numbers: dict[str, Any] = json.loads(done.stdout)
    return numbers


def test_all_but_the_leases_is_within_the_budget_at_every_moment(tmp_path: Path) -> None:
    with KilledDaemon(tmp_path) as daemon:
        for faults in ("signal", "thread"):
            seen = run(BUDGET, daemon.path, faults)
            assert seen["leased"] >= 32 * MIB
            assert seen["most"] <= 64 * MIB * 1.05 + 16 * MIB, (faults, seen)


def test_a_child_sends_out_what_its_parent_had_on_lease(tmp_path: Path) -> None:
    with KilledDaemon(tmp_path) as daemon:
        for faults in ("signal", "thread"):
            seen = run(CHILD, daemon.path, faults)
            assert seen["leased"] >= 64 * MIB
            assert seen["used"] <= 44 * MIB * 1.05 + MIB, "what was on lease is in its own budget"
            assert (seen["overshot"], seen["broken"]) == (0, [])


def test_leases_take_none_of_the_programs_numbers_of_files(tmp_path: Path) -> None:
    with KilledDaemon(tmp_path) as daemon:
        seen = run(FILES, daemon.path, "signal", 80, 2000)
        assert seen["leased"] > 80 * MIB, "an extent is of 1 MiB, and has a descriptor"
        assert seen["files"] > 50
        assert seen["highest"] == 79
        assert seen["limit"] == [80, 2000]


def test_where_the_limit_is_fixed_half_of_the_numbers_stay_the_programs(tmp_path: Path) -> None:
    with KilledDaemon(tmp_path) as daemon:
        seen = run(FILES, daemon.path, "signal", 120, 120)
        assert 30 * MIB <= seen["leased"] <= 60 * MIB
        assert seen["files"] > 40


def test_a_guest_needs_no_more_address_space_than_it_may_have(tmp_path: Path) -> None:
    with KilledDaemon(tmp_path) as daemon:
        assert run(SPACE, daemon.path)["held"] > 0
