# SPDX-License-Identifier: Apache-2.0
"""A Memory as a guest: it fills beyond its budget by leases, loses no page with a daemon, and works without one."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import tmem
from tests.host.guestdaemon import ENV, KilledDaemon, until

MIB = 1 << 20
SWAP = "64M"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[KilledDaemon]:
    with KilledDaemon(tmp_path) as running:
        yield running


@functools.cache
def values(seed: int) -> npt.NDArray[np.uint64]:
    """A block of 8 MiB that packs to five eighths."""
    return np.random.default_rng(seed).integers(0, 1 << 40, MIB, dtype="u8")


def fill(memory: tmem.Memory, blocks: int, first: int = 0) -> list[npt.NDArray[np.uint64]]:
    arrays = []
    for seed in range(first, first + blocks):
        array = memory.zeros(MIB, dtype="u8")
        array[:] = values(seed)
        arrays.append(array)
    return arrays


def compare(arrays: list[npt.NDArray[np.uint64]], first: int = 0) -> None:
    for seed, array in enumerate(arrays, first):
        assert np.array_equal(array, values(seed)), f"block {seed}"


def used_until(
    arrays: list[npt.NDArray[np.uint64]], first: int, holds: Callable[[], bool], what: str, seconds: float = 20.0
) -> None:
    """Read all there is, over and over, until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited in vain until {what}"
        compare(arrays, first)


def standing(memory: tmem.Memory, word: str) -> None:
    until(lambda: memory.stats().host == word, f"it is {word}, not {memory.stats().host}")


def test_a_memory_holds_by_leases_what_its_budget_has_no_room_for(daemon: KilledDaemon) -> None:
    with tmem.Memory("32M", swap=None, host=daemon.path, name="grower") as memory:
        arrays = fill(memory, 14)
        stats = memory.stats()
        assert stats.host == "connected"
        assert stats.leased >= 32 * MIB
        assert 0 < stats.leased_used <= stats.leased
        assert stats.used <= 34 * MIB, "leases are beside the budget"
        compare(arrays)
        (row,) = daemon.guests()
        assert (row["name"], row["pid"], row["uid"]) == ("grower", os.getpid(), os.geteuid())
        assert row["persistent_bytes"] >= stats.leased_used
        until(lambda: daemon.guests()[0]["leased_used"] > 0, "it reports")
        assert memory.check() == []
        del arrays
    until(lambda: daemon.guests() == [], "the connection ends with the memory")
    assert daemon.ask("list")["host"]["leased_bytes"] == 0


def test_what_lies_idle_goes_back(daemon: KilledDaemon) -> None:
    with tmem.Memory("32M", swap=None, host=daemon.path) as memory:
        arrays = fill(memory, 10)
        assert memory.stats().leased > 16 * MIB
        del arrays  # at once: what is idle for a while goes as one
        until(lambda: daemon.guests()[0]["persistent_bytes"] <= 2 * MIB, "what lies idle goes back")


def test_a_daemon_that_is_killed_takes_no_page_along(daemon: KilledDaemon) -> None:
    with tmem.Memory("32M", swap=SWAP, host=daemon.path) as memory:
        arrays = fill(memory, 12)
        for turn in range(2):
            held = memory.stats().leased
            assert held > 0
            daemon.kill()
            standing(memory, "alone")
            compare(arrays)
            fresh = fill(memory, 2, 100)
            compare(fresh, 100)
            del fresh
            daemon.start()
            standing(memory, "connected")
            until(lambda: daemon.ask("list")["host"]["counters"]["claimed"] > 0, "it claims")
            compare(arrays)
            assert memory.check() == [], turn
        del arrays


def test_a_daemon_that_stops_for_a_while_holds_nobody_up(daemon: KilledDaemon) -> None:
    with tmem.Memory("32M", swap="256M", host=daemon.path) as memory:
        arrays = fill(memory, 8)
        standing(memory, "connected")
        daemon.send(signal.SIGSTOP)
        began = time.monotonic()
        arrays += fill(memory, 12, 8)
        compare(arrays)
        assert time.monotonic() - began < 30
        assert memory.stats().swap_used > 0
        daemon.send(signal.SIGCONT)
        assert memory.stats().host == "connected"
        del arrays


def test_what_the_host_refuses_goes_to_the_swap_device(tmp_path: Path) -> None:
    with (
        KilledDaemon(tmp_path, "--capacity", "16M", "--extent", "1M") as daemon,
        tmem.Memory("32M", swap="512M", host=daemon.path) as memory,
    ):
        arrays = fill(memory, 20)
        stats = memory.stats()
        assert 0 < stats.leased <= 16 * MIB
        assert stats.swap_used > 0
        compare(arrays)
        assert daemon.ask("list")["host"]["counters"]["refused"]
        assert memory.check() == []
        del arrays


def test_a_frozen_guest_keeps_what_it_has_and_is_thawed(daemon: KilledDaemon) -> None:
    with tmem.Memory("32M", swap="512M", host=daemon.path, name="frozen") as memory:
        arrays = fill(memory, 8)
        before = memory.stats().leased
        daemon.ask("freeze", guest="frozen")
        arrays += fill(memory, 8, 8)
        assert memory.stats().leased <= before + 8 * MIB  # what was under way
        daemon.ask("thaw", guest="frozen")
        arrays += fill(memory, 8, 16)
        compare(arrays)
        del arrays


def test_who_holds_most_gives_way_to_another(tmp_path: Path) -> None:
    with (
        KilledDaemon(tmp_path, "--capacity", "64M", "--extent", "1M") as daemon,
        tmem.Memory("32M", swap="512M", host=daemon.path, name="first") as first,
        tmem.Memory("32M", swap="1G", host=daemon.path, name="second") as second,
    ):
        arrays = fill(first, 24)
        assert first.stats().leased > 60 * MIB
        others = fill(second, 12, 50)
        # What went to the swap device while the host had nothing comes up as it is used.
        used_until(others, 50, lambda: second.stats().leased > 24 * MIB, "it has most of its half")
        until(lambda: first.stats().leased < 40 * MIB, "the first one gave")
        compare(arrays)
        compare(others, 50)
        assert daemon.ask("list")["host"]["counters"]["answered"] > 0
        assert first.check() + second.check() == []
        del arrays, others


def noise(seed: int) -> npt.NDArray[np.uint64]:
    """A block of 8 MiB that does not pack at all."""
    return np.random.default_rng(seed).integers(0, 1 << 64, MIB, dtype="u8")


def test_what_does_not_pack_lives_on_leases_without_a_swap_device(tmp_path: Path) -> None:
    with (
        KilledDaemon(tmp_path, "--capacity", "512M") as daemon,
        tmem.Memory("32M", swap=None, host=daemon.path) as memory,
    ):
        arrays = []
        for seed in range(25):
            array = memory.zeros(MIB, dtype="u8")
            array[:] = noise(seed)
            arrays.append(array)
            assert memory.stats().used <= 34 * MIB
        stats = memory.stats()
        assert stats.leased_used >= 160 * MIB
        assert stats.overshoot == 0
        for seed, array in enumerate(arrays):
            assert np.array_equal(array, noise(seed)), f"block {seed}"
        assert memory.check() == []
        del arrays, array


def test_pages_on_the_swap_device_come_up_when_the_host_has_room(tmp_path: Path) -> None:
    with (
        KilledDaemon(tmp_path, "--capacity", "96M", "--extent", "1M") as daemon,
        tmem.Memory("32M", swap="512M", host=daemon.path, name="late") as late,
    ):
        with tmem.Memory("32M", swap=None, host=daemon.path, name="first") as first:
            taken = fill(first, 16)
            daemon.ask("set", guest="late", cap=1 * MIB)
            arrays = fill(late, 12)
            before = late.stats()
            assert before.swap_used > 16 * MIB
            assert before.leased <= MIB
            del taken
        daemon.ask("set", guest="late", cap="none")
        used_until(arrays, 0, lambda: late.stats().swap_used < before.swap_used // 4, "they come up")
        assert late.stats().leased > 24 * MIB
        compare(arrays)
        assert late.check() == []
        del arrays


def test_a_balloon_moves_what_leaves_to_leases_and_ends(daemon: KilledDaemon) -> None:
    with tmem.Memory("64M", swap="512M", host=daemon.path, name="toy") as memory:
        arrays = fill(memory, 16)
        daemon.ask("balloon", guest="toy", bytes=24 * MIB)
        until(lambda: memory.stats().used <= 26 * MIB, "it keeps to the target")
        until(lambda: daemon.guests()[0]["ram"] == 24 * MIB, "it reports")
        assert memory.stats().swap_used == 0
        compare(arrays)
        daemon.ask("balloon", guest="toy", bytes=0)
        until(lambda: daemon.guests()[0]["ram"] == 64 * MIB, "it has its own budget again")
        compare(arrays)
        assert memory.check() == []
        del arrays


def test_without_a_daemon_a_memory_works_alone(tmp_path: Path) -> None:
    with tmem.Memory("32M", swap=SWAP, host=tmp_path / "nobody.sock") as memory:
        arrays = fill(memory, 6)
        compare(arrays)
        assert (memory.stats().host, memory.stats().leased) == ("alone", 0)
        del arrays
    with pytest.raises(tmem.TmemError, match="107 bytes"):
        tmem.Memory("32M", host="/" + "x" * 200)
    with pytest.raises(ValueError, match="add 'store'"):
        tmem.Memory("32M", host=tmp_path / "nobody.sock", ops=["plain"])


def test_auto_is_the_environments_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMEM_HOST", str(tmp_path / "nobody.sock"))
    with tmem.Memory("32M", swap=None, host="auto") as memory:
        assert memory.stats().host == "alone"
    monkeypatch.setenv("TMEM_HOST_UID", "me")
    with pytest.raises(tmem.TmemError, match="TMEM_HOST_UID"):
        tmem.Memory("32M", swap=None, host="auto")


AS_NOBODY = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
os.setresuid(4321, 4321, 4321)
listener.listen()
print("ready", flush=True)
guest, _ = listener.accept()
print("heard" if guest.recv(100) else "nothing", flush=True)
"""


@pytest.mark.usefixtures("need_root")
def test_a_server_of_another_user_is_told_nothing(tmp_path: Path) -> None:
    path = tmp_path / "host.sock"
    with subprocess.Popen([sys.executable, "-c", AS_NOBODY, str(path)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with pytest.warns(tmem.TmemWarning, match="TMEM_HOST_UID=4321"):
            memory = tmem.Memory("32M", swap=None, host=path)
        assert memory.stats().host == "distrusted"
        memory.close()
        assert server.stdout.readline() == "nothing\n"


FORKS = """
import os, sys, traceback
from pathlib import Path
import tmem
from tests.host.test_guest_memory import compare, fill

memory = tmem.Memory("32M", swap="1G", host=sys.argv[1], name="forker")
arrays = fill(memory, 16)
assert memory.stats().leased > 0
sys.stdout.flush()
child = os.fork()
if child == 0:
    status = 1
    try:
        assert memory.stats().leased == 0
        assert not [path for path in Path("/proc/self/fd").iterdir() if "tmem-extent" in os.path.realpath(path)]
        compare(arrays)
        arrays += fill(memory, 8, 16)
        compare(arrays)
        assert memory.stats().host == "connected", memory.stats().host
        assert memory.stats().leased > 0
        assert memory.check() == []
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
for n, array in enumerate(arrays):
    array += 1
    array -= 1
compare(arrays)
_, status = os.waitpid(child, 0)
assert status == 0, status
compare(arrays)
assert memory.stats().leased > 0
assert memory.check() == []
print("good")
"""


def test_a_forked_child_becomes_a_guest_of_its_own(daemon: KilledDaemon) -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", FORKS, str(daemon.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENV, check=False)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr[-3000:]
    until(lambda: daemon.guests() == [], "both are gone")
    assert daemon.ask("list")["host"]["leased_bytes"] == 0


def test_a_guest_that_is_killed_holds_nothing(daemon: KilledDaemon) -> None:
    program = (
        "import sys, tmem; from tests.host.test_guest_memory import fill\n"
        "m = tmem.Memory('32M', swap=None, host=sys.argv[1]); a = fill(m, 12); print('full', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(daemon.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "full\n"
        assert daemon.ask("list")["host"]["leased_bytes"] > 0
        guest.kill()
    until(lambda: daemon.ask("list")["host"]["leased_bytes"] == 0, "all is free again")
