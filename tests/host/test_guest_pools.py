# SPDX-License-Identifier: Apache-2.0
"""Pools on a connection to a real daemon: leased, taken back, shared, lost with a member, copied by a fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tmem
from tests.host.daemonthread import ThreadDaemon
from tmem import Reason, Refused

MIB = 1 << 20
SECRET = bytes(range(16))


def page(seed: int) -> bytes:
    """Return a page that packs to about half of itself, of its seed alone."""
    noise = np.random.default_rng(seed).bytes(2048)
    return noise + bytes([seed % 251]) * 2048


def wait_for(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.005)


def connected(daemon: ThreadDaemon, name: str = "pools") -> tmem.Guest:
    guest = tmem.Guest(daemon.path, name=name)
    wait_for(lambda: guest.stats().state == "connected", "the connection")
    return guest


def fill(pool: tmem.Pool, count: int, begin: int = 0) -> int:
    wait_for(lambda: bool(pool.put(1, begin, page(begin))), "the first extent")
    return sum(bool(pool.put(1, n, page(n))) for n in range(begin, begin + count))


def hits(pool: tmem.Pool | tmem.SharedPool, count: int) -> int:
    """Return how many pages come back; each as it was put."""
    found = 0
    for n in range(count):
        got = pool.get(1, n)
        assert got is None or got == page(n), n
        found += got is not None
    return found


def test_ephemeral_pages_lie_in_leased_memory(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, connected(daemon) as guest:
        pool = tmem.Pool(persistent=False, exclusive=False, host=guest)
        assert fill(pool, 2500) == 2500
        stats = guest.stats()
        assert stats.leased_bytes >= stats.data_bytes > 4 * MIB
        assert stats.footprint < MIB
        assert hits(pool, 2500) == 2500
        assert hits(pool, 2500) == 2500
        taken = tmem.Pool(persistent=False, host=guest)
        assert taken.put(1, 1, page(1))
        assert taken.get(1, 1) == page(1)
        assert taken.get(1, 1) is None, "an exclusive get takes it away"
        assert pool.put(1, 7, bytes(4096))
        assert pool.get(1, 7) == bytes(4096)
        assert pool.flush_page(1, 8)
        assert (1, 8) not in pool
        many = pool.get_many(1, range(10), np.empty((10, 4096), np.uint8))
        assert many.tolist() == [n != 8 for n in range(10)]
        pool.freeze()
        assert pool.put(1, 9, page(9)) == Refused(Reason.FROZEN)
        assert pool.get(1, 9) is None
        assert pool.check() == []
        assert pool.destroy() == 2498
        with pytest.raises(tmem.ClosedError):
            pool.get(1, 1)
        with pytest.raises(ValueError, match="charges its guest whole"):
            tmem.Pool(host=guest, guest="other")


def test_extents_are_taken_back_for_others(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, capacity="8M") as daemon, connected(daemon) as guest:
        pool = tmem.Pool(persistent=False, exclusive=False, host=guest)
        fill(pool, 4000)
        before = guest.stats().extents
        assert before >= 6
        with daemon.guest("greedy") as greedy:
            assert greedy.lease(3) > 0
            wait_for(lambda: guest.stats().revoked > 0, "a revocation")
            found = hits(pool, 4000)
            assert 0 < found < 4000
            assert fill(pool, 100, 5000) == 100, "what is left goes on being used"
        assert guest.check() == []


STOPPED = """
import sys, tmem
from tests.host.test_guest_pools import page
guest = tmem.Guest(sys.argv[1], name="stopped")
pool = tmem.Pool(persistent=False, exclusive=False, host=guest)
while guest.stats().state != "connected": pass
for n in range(2500): pool.put(1, n, page(n))
print("full", flush=True)
sys.stdin.readline()
found = sum(pool.get(1, n) == page(n) or (1, n) in pool for n in range(2500))
again = [n for n in range(2500) if (got := pool.get(1, n)) is not None and got != page(n)]
print(found, len(again), guest.stats().damaged, flush=True)
"""


def test_a_stopped_guest_loses_its_extents_and_goes_on(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path, capacity="8M") as daemon:
        command = [sys.executable, "-c", STOPPED, str(daemon.path)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "full\n"
            os.kill(child.pid, signal.SIGSTOP)
            with daemon.guest("greedy") as greedy:
                assert greedy.lease(4) > 0
                os.kill(child.pid, signal.SIGCONT)
                child.stdin.write("go\n")
                child.stdin.flush()
                found, wrong, damaged = map(int, child.stdout.readline().split())
            assert 0 < found < 2500
            assert (wrong, damaged) == (0, 0)
        finally:
            child.kill()
            child.communicate()


def test_persistent_pages_survive_their_daemon(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        guest = connected(daemon)
        pool = tmem.Pool(host=guest)
        assert fill(pool, 4000) == 4000
        assert daemon.ask("list", guest="pools", long=True)["guests"][0]["persistent_bytes"] > 4 * MIB
    wait_for(lambda: guest.stats().state == "alone", "the end of the daemon")
    assert hits(pool, 4000) == 4000
    with ThreadDaemon(tmp_path) as daemon:
        wait_for(lambda: guest.stats().state == "connected", "the next daemon")
        wait_for(lambda: daemon.ask("list")["host"]["leased_bytes"] > 4 * MIB, "a claim")
        assert hits(pool, 4000) == 4000
        assert fill(pool, 500, 4000) == 500
        assert pool.check() == []
        assert pool.destroy() == 4500
        guest.close()


def test_without_a_daemon_a_guest_works_alone(tmp_path: Path) -> None:
    with tmem.Guest(tmp_path / "none.sock", capacity="64M") as guest:
        ephemeral, kept = tmem.Pool(persistent=False, host=guest), tmem.Pool(host=guest)
        assert ephemeral.put(1, 1, page(1)) == Refused(Reason.STORE_FULL)
        assert fill(kept, 500) == hits(kept, 500) == 500
        with pytest.raises(tmem.PoolError, match="tmem daemon"):
            guest.shared_pool(SECRET)
        assert guest.stats().state == "alone"
    with pytest.raises(tmem.ClosedError):
        guest.stats()
    with pytest.raises(tmem.ClosedError):
        tmem.Pool(persistent=False, host=guest)


def grant(daemon: ThreadDaemon, *names: str) -> None:
    """Allow guests, by name or number, the pool of the secret."""
    for name in names:
        daemon.ask("shared-auth", guest=name, secret=SECRET.hex(), allow=True)


def test_a_shared_pool_is_joined_by_secret_and_grant(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, connected(daemon, "one") as guest:
        with pytest.raises(tmem.PoolError, match="shared-auth"):
            guest.shared_pool(SECRET)
        with pytest.raises(ValueError, match="ephemeral"):
            guest.shared_pool(SECRET, persistent=True)
        with pytest.raises(ValueError, match="16 bytes"):
            guest.shared_pool(b"short")
        grant(daemon, "one")
        with pytest.raises(tmem.PoolError, match="not-granted"):
            guest.shared_pool(tmem.new_secret())
        with guest.shared_pool(SECRET) as pool, guest.shared_pool(SECRET) as same:
            wait_for(lambda: bool(pool.put(1, 1, page(1))), "the first extent")
            assert same.get(1, 1) == page(1)
            assert same.stats().members == 1
        again = guest.shared_pool(SECRET)
        assert again.get(1, 1) is None, "it left, and all it had is gone"
        assert again.put(1, 1, page(1))
        assert again.get(1, 1) == page(1)


def test_members_share_pages(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, connected(daemon, "one") as one, connected(daemon, "two") as two:
        grant(daemon, "one", "two")
        with one.shared_pool(SECRET) as mine, two.shared_pool(SECRET) as theirs:
            wait_for(lambda: mine.stats().others_extents > 0 and theirs.stats().others_extents > 0, "the members")
            for one_of in (mine, theirs):
                wait_for(lambda: bool(one_of.put(1, 0, page(0))), "the first extent")  # noqa: B023 - called at once
            for n in range(1000):
                assert (mine, theirs)[n % 2].put(1, n, page(n))
            wait_for(lambda: theirs.stats().others_extents > 1 < mine.stats().others_extents, "their data")
            assert hits(mine, 1000) + hits(theirs, 1000) > 1900
            assert theirs.put(1, 4, page(5))
            assert mine.get(1, 4) == page(5)
            assert mine.flush_page(1, 4)
            assert theirs.get(1, 4) is None
            assert mine.put(1, 4, bytes(4096))
            assert theirs.get(1, 4) == bytes(4096)
            assert theirs.flush_object(1) > 900
            assert hits(mine, 1000) == 0
            assert theirs.stats().pages == 0, "as far as its own index says"


MEMBER = """
import sys, tmem
from tests.host.test_guest_pools import SECRET, page, wait_for
guest = tmem.Guest(sys.argv[1], name="member")
wait_for(lambda: guest.stats().state == "connected", "the connection")
print("here", flush=True)
sys.stdin.readline()
pool = guest.shared_pool(SECRET)
while True:
    for n in range(300):
        pool.put(1, n, page(n))
    print("round", flush=True)
"""


def test_a_member_that_is_killed_harms_nobody(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, connected(daemon, "one") as one:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", MEMBER, str(daemon.path)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "here\n"
            grant(daemon, "one", "member")
            pool = one.shared_pool(SECRET)
            child.stdin.write("go\n")
            child.stdin.flush()
            assert child.stdout.readline() == "round\n"
            wait_for(lambda: hits(pool, 300) > 0, "a page of the member's")
            child.kill()
            hits(pool, 300)
        finally:
            child.kill()
            child.communicate()
        wait_for(lambda: pool.stats().members == 1, "its end")
        assert hits(pool, 300) == 0, "what it may have hidden is gone with it"
        wait_for(lambda: bool(pool.put(1, 0, page(0))), "the first extent")
        for n in range(300):
            assert pool.put(1, n, page(n))
        assert hits(pool, 300) == 300


def test_a_shared_pool_is_joined_again_after_the_daemon(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon:
        guest = connected(daemon, "one")
        grant(daemon, "one")
        pool = guest.shared_pool(SECRET)
        wait_for(lambda: bool(pool.put(1, 1, page(1))), "the first extent")
    wait_for(lambda: guest.stats().state == "alone", "the end of the daemon")
    assert pool.get(1, 1) is None
    with pytest.raises(tmem.PoolError, match="when the daemon is back"):
        pool.flush_page(1, 1)
    with ThreadDaemon(tmp_path) as daemon:
        wait_for(lambda: guest.stats().state == "connected", "the next daemon")
        grant(daemon, "one")
        wait_for(lambda: bool(pool.put(1, 1, page(2))), "the pool")
        assert pool.get(1, 1) == page(2)
        guest.close()


def test_a_forked_child_has_what_is_kept_and_a_connection_of_its_own(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, connected(daemon) as guest:
        cache, kept = tmem.Pool(persistent=False, exclusive=False, host=guest), tmem.Pool(host=guest)
        fill(cache, 500)
        fill(kept, 2000)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                gone, there = hits(cache, 500), hits(kept, 2000)
                fill(kept, 100, 3000)
                end = time.monotonic() + 5
                while not cache.put(1, 1, page(1)) and time.monotonic() < end:
                    time.sleep(0.01)
                own = cache.get(1, 1) == page(1)
                code = 0 if (gone, there, own) == (0, 2000, True) and guest.check() == [] else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert hits(cache, 500) == 500
        assert hits(kept, 2000) == 2000
        assert guest.check() == []


def test_a_forked_child_joins_a_shared_pool_for_itself(tmp_path: Path) -> None:
    with ThreadDaemon(tmp_path) as daemon, connected(daemon, "one") as guest:
        grant(daemon, "one")
        with guest.shared_pool(SECRET) as pool:
            wait_for(lambda: bool(pool.put(1, 1, page(1))), "the first extent")
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    gone = pool.get(1, 1)  # before it is a member
                    end = time.monotonic() + 8
                    while not pool.put(1, 2, page(2)) and time.monotonic() < end:
                        time.sleep(0.05)
                    code = 0 if gone is None and pool.get(1, 2) == page(2) and pool.stats().members == 2 else 2
                finally:
                    os._exit(code)
            wait_for(lambda: daemon.call(lambda: len(daemon.host.guests)) == 2, "the child's connection")
            grant(daemon, max(daemon.call(lambda: [str(one) for one in daemon.host.guests])))  # a guest of its own
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            wait_for(lambda: pool.stats().members == 1, "the child's end")
            assert pool.put(1, 3, page(3))
            assert pool.get(1, 3) == page(3)
