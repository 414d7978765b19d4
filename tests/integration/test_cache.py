# SPDX-License-Identifier: Apache-2.0
"""Caches on the spare room of a Memory, among threads and forks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

import tmem
from tmem import Cache, Memory

MIB = 1 << 20

Maker = Callable[..., Memory]


def noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def fill(cache: Cache, entries: int) -> None:
    for n in range(entries):
        cache[n] = noise(20_000, n)


def sound(memory: Memory, cache: Cache) -> bool:
    """Tell whether all entries are what was put, nobody has more than his part, and every law holds."""
    right = all(cache.get(n) in {None, noise(20_000, n)} for n in range(0, 2000, 7))
    stats, lent = cache.stats(), memory.stats().lent
    return right and stats.bytes <= lent == max(stats.limit, stats.bytes) and [*memory.check(), *cache.check()] == []


def test_a_cache_takes_what_is_spare_and_plain_arrays_come_before_it(make: Maker) -> None:
    memory = make("64M", swap=None)
    with Cache("100%", memory=memory) as cache:
        first = memory.full(2 * MIB, 7, "i8")
        fill(cache, 3000)
        before = cache.stats()
        assert before.evicted > 0
        assert before.bytes > 40 * MIB
        assert first.nbytes + memory.stats().lent < memory.ram
        second = memory.full(4 * MIB, 8, "i8")
        after = cache.stats()
        assert memory.stats().armed == 0  # the cache gave way, and no page had to
        assert after.bytes < 16 * MIB
        assert 0 < after.entries < before.entries
        assert 2999 in cache  # the youngest stay
        assert sound(memory, cache)
        assert (first == 7).all()
        assert (second == 8).all()


def test_paged_memory_takes_all_of_it_before_anything_is_refused(make: Maker) -> None:
    memory = make("64M", swap=None)
    with Cache("48M", memory=memory) as cache:
        fill(cache, 2000)
        assert cache.stats().evicted == 0
        arrays = [memory.zeros(MIB, "i8") for _ in range(24)]
        for n, array in enumerate(arrays):
            array[:] = np.arange(array.size) // 3 + n
        stats = memory.stats()
        assert stats.armed == 1
        assert stats.evictions > 0
        assert stats.lent < MIB // 4  # some tables
        assert len(cache) == 0
        assert (sum(stats.refused.values()), stats.overshoot_events) == (0, 0)
        cache["k"] = noise(MIB, 1)
        assert "k" not in cache
        assert cache.stats().refused == 1
        assert all((array == np.arange(array.size) // 3 + n).all() for n, array in enumerate(arrays))
        arrays.clear()
        fill(cache, 2000)
        assert len(cache) > 1000  # what is spare again is its own again
        assert sound(memory, cache)


def test_a_page_that_does_not_pack_finds_the_caches_room_before_the_swap_device(make: Maker) -> None:
    memory = make("64M", swap="256M")
    with Cache("48M", memory=memory) as cache:
        fill(cache, 2000)
        array = memory.array(np.random.default_rng(1).integers(0, 2**63, 7 * MIB))
        assert memory.stats().swap_stores == 0  # 56 MiB: it fits where the cache was
        assert len(cache) < 300
        more = memory.array(np.random.default_rng(2).integers(0, 2**63, 4 * MIB))
        assert memory.stats().swap_stores > 0
        assert len(cache) == 0
        assert (array == np.random.default_rng(1).integers(0, 2**63, array.size)).all()
        assert (more == np.random.default_rng(2).integers(0, 2**63, more.size)).all()
        assert sound(memory, cache)


def test_pins_come_before_a_cache(make: Maker) -> None:
    memory = make("64M", swap="256M")
    with Cache("48M", memory=memory) as cache:
        arrays = [memory.full(4 * MIB, n, "i8") for n in range(4)]
        del arrays[1:]
        fill(cache, 2000)
        lent = memory.stats().lent
        assert memory.stats().armed
        assert lent > 16 * MIB
        with memory.pin(arrays[0]):
            assert memory.stats().lent < lent
            assert (arrays[0] == 0).all()
        assert sound(memory, cache)


def test_caches_of_one_memory_share_its_room() -> None:
    with Memory("64M", swap=None) as memory:
        caches = [Cache("32M", memory=memory) for _ in range(3)]
        for cache in caches:
            fill(cache, 1400)
        assert sum(cache.stats().bytes for cache in caches) <= memory.stats().lent < memory.ram
        caches[0].close()
        fill(caches[2], 1400)
        assert len(caches[2]) > 1300  # what one gave up, another may have: it does not ask at each put
        for cache in caches[1:]:
            cache.close()
        assert memory.stats().lent == 0


def test_a_memory_lends_to_so_many_and_not_once_it_is_closed() -> None:
    with Memory("64M", swap=None) as memory:
        caches = [Cache("1M", memory=memory) for _ in range(32)]
        with pytest.raises(tmem.BudgetError, match="close some"):
            Cache("1M", memory=memory)
        caches.pop().close()
        Cache("1M", memory=memory).close()
        for cache in caches:
            cache.close()
    with pytest.raises(tmem.ClosedError):
        Cache("1M", memory=memory)


def test_a_cache_outlives_its_memory_as_it_is() -> None:
    memory = Memory("32M", swap=None)
    cache = Cache("16M", memory=memory)
    cache["k"] = b"v"
    memory.close()
    cache["l"] = noise(8 * MIB, 1)
    assert "l" not in cache  # nobody lends to it any more
    cache["k"] = b"w"
    assert cache["k"] == b"w"
    cache.close()


BUDGET = """
import os, sys, threading
import numpy as np
import tmem

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10

random = np.random.default_rng(1)
memory = tmem.Memory("64M", swap=None)
cache = tmem.Cache("60M", memory=memory)
values = [random.bytes(20_000) for _ in range(100)]
cache["warm"] = values[0]
array = memory.zeros(1 << 20, "i8")
array[:] = 1
base = anonymous() - memory.stats().used - array.nbytes
worst = 0
for round in range(6):
    for n in range(4000):
        cache[n] = values[n % 100]
        if n % 100 == 0:
            worst = max(worst, anonymous() - base)
    arrays = []
    for k in range(6 * round):
        arrays.append(memory.zeros(1 << 20, "i8"))
        arrays[-1][:] = np.arange(1 << 20) // 2 + k
        worst = max(worst, anonymous() - base)
    assert all(cache.get(n) in (None, values[n % 100]) for n in range(0, 4000, 11))
    assert all((a == np.arange(1 << 20) // 2 + k).all() for k, a in enumerate(arrays))
    worst = max(worst, anonymous() - base)
    arrays.clear()
print(worst <= memory.ram * 1.05 + (16 << 20) or worst)
"""

FORK = """
import os, threading
import numpy as np
import tmem

memory = tmem.Memory("32M", swap=None)
caches = [tmem.Cache("4M"), tmem.Cache("24M", memory=memory)]
paged = memory.zeros(4 << 20, "i8")
paged[:] = np.arange(paged.size)
stop = threading.Event()

def signed(n, size):
    return n.to_bytes(8, "little") * (size // 8)

def hammer(cache, at):
    n = 0
    while not stop.is_set():
        n += 1
        cache[at, n % 50] = signed(n, (80, 8000, 200_000)[n % 3])
        cache.get((1 - at, n % 50))
        paged[at :: 4099] += 0
        cache["paged"] = paged[1000 * at : 1000 * at + 5000]
        if n % 70 == 0:
            list(cache.items())

def churn():
    while not stop.is_set():
        memory.zeros(1 << 20, "i8")[::512] = 1

threads = [threading.Thread(target=hammer, args=(cache, at)) for cache in caches for at in range(2)]
threads.append(threading.Thread(target=churn))
for thread in threads:
    thread.start()

def sound():
    good = True
    for cache in caches:
        good &= cache.check() == []
        for key, value in cache.items():
            good &= value[:8] * (len(value) // 8) == value if key != "paged" else len(value) == 40_000
        cache["mine"] = b"child"
        good &= cache.get("mine") in (None, b"child")
        while len(cache):
            cache.popitem()
    return good and (paged == np.arange(paged.size)).all() and memory.check() == []

for round in range(12):
    child = os.fork()
    if child == 0:
        os._exit(0 if sound() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, round
stop.set()
for thread in threads:
    thread.join()
assert all("mine" not in cache for cache in caches)
assert sound()
print("done")
"""


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_budget_holds_with_a_cache_in_it() -> None:
    """Law 13, as the kernel counts."""
    assert _run(BUDGET) == "True\n"


def test_child_forked_among_busy_threads_has_a_copy() -> None:
    """Law 15, while pagers take room back from hosts."""
    assert _run(FORK) == "done\n"


def test_threads_never_see_a_torn_or_a_foreign_value() -> None:
    """Law 8: a value is signed by its key and by itself."""
    failures: list[str] = []
    with Memory("32M", swap=None) as memory, Cache("12M", memory=memory) as cache:

        def work(me: int) -> None:
            for n in range(400):
                key, size = n % 5, (64, 5000, 100_000, 1_000_000)[(n + me) % 4]
                cache[key] = (key * 1000 + n % 250).to_bytes(8, "little") * (size // 8)
                value = cache.get((n * 3 + me) % 5)
                if value is None:
                    continue
                number = int.from_bytes(value[:8], "little")
                if number // 1000 != (n * 3 + me) % 5 or value != value[:8] * (len(value) // 8):
                    failures.append(f"{me} {n} {number}")

        threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [*memory.check(), *cache.check()] == []
        assert cache.stats().hits > 100
