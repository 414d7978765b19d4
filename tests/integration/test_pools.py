# SPDX-License-Identifier: Apache-2.0
"""Pools among threads, forks and paged arrays."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np

import tmem

PAGE = 4096
WORDS = PAGE // 8
ROUNDS = 300
PAGES = 12_000  # 48 MB of arrays under a budget of 16 MiB

FORK = """
import os, sys, threading
import numpy as np
import tmem

host = tmem.Host("8M")
kept = tmem.Pool(host=host)
caches = [tmem.Pool(persistent=False, exclusive=False, host=host, guest=f"g{n}") for n in range(2)]
kept.put_many(0, range(200), np.repeat(np.arange(200), 512))
if sys.argv[1] != "plain":
    memory = tmem.Memory("16M", faults=sys.argv[1])
    paged = memory.zeros(6 << 20, "i8")
    paged[:] = np.arange(paged.size)
stop = threading.Event()

def hammer(at):
    pages = np.random.default_rng(at).bytes(300 * 4096)
    into = bytearray(len(pages))
    while not stop.is_set():
        caches[at].put_many(at, range(300), pages)
        caches[at].get_many(at, range(300), into)
        if sys.argv[1] != "plain":
            kept.put_many(1, range(100, 164), paged[at << 15 : (at + 1) << 15])

threads = [threading.Thread(target=hammer, args=(at,)) for at in range(2)]
for thread in threads:
    thread.start()

def sound(round):
    into = np.empty((200, 512), int)
    good = kept.get_many(0, range(200), into).all() and (into == np.arange(200)[:, None]).all()
    good &= bool(kept.put(2, round, into[0])) and kept.get(2, round) == into[0].tobytes()
    good &= all(cache.put(5, 0, into[1]) and cache.get(5, 0) == into[1].tobytes() for cache in caches)
    good &= kept.flush_page(2, round) and host.check() == []
    host.resize("4M")
    host.resize("8M")
    tmem.Pool(host=tmem.Host("1M")).put(0, 0, into[0])
    return good and host.check() == []

for round in range(20):
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if sound(round) else 1)
        good = sound(round) and os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
        os._exit(0 if good else 1)
    assert kept.get(0, 7) == np.repeat(7, 512).tobytes()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, round
stop.set()
for thread in threads:
    thread.join()
assert sound(0)
assert kept.get(2, 5) is None  # what children put is theirs
print("done")
"""


def test_child_forked_among_busy_threads_finds_every_host_whole() -> None:
    _fork_among_threads("plain")


def test_child_of_a_process_with_paged_arrays_finds_every_host_whole(entry: str) -> None:
    """Pager and host have fork handlers of their own, and the threads put pages that must be faulted in."""
    _fork_among_threads(entry)


def _fork_among_threads(mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, mode],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_threads_on_one_handle_never_see_a_torn_page() -> None:
    """Law 8. A page is signed by its maker in each word, and its numbers only rise for each maker."""
    host = tmem.Host("8M")
    pool = tmem.Pool(host=host, pack=False)
    failures: list[str] = []

    def work(maker: int) -> None:
        # Zeros: a page that was never found is whole, too.
        into, newest = np.zeros((70, WORDS), int), np.zeros((3, 70), int)
        for n in range(1, ROUNDS):
            pool.put_many(0, range(70), np.full((70, WORDS), n * 4 + maker))
            found = pool.get_many(0, range(70), into)
            if (into != into[:, :1]).any():
                failures.append("a torn page")
            for at in np.flatnonzero(found):
                number, by = divmod(int(into[at, 0]), 4)
                if number < newest[by, at]:
                    failures.append(f"an older page of {by} came back")
                newest[by, at] = number
            if n % 16 == maker:
                pool.flush_page(0, n % 70)

    threads = [threading.Thread(target=work, args=(maker,)) for maker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert pool.check() == []
    assert pool.stats().puts == 3 * 70 * (ROUNDS - 1)


def test_paged_arrays_are_pages_indexes_and_targets(make: Callable[..., tmem.Memory]) -> None:
    memory, host = make(), tmem.Host("64M")
    pool = tmem.Pool(host=host)
    pages = memory.empty((PAGES, WORDS), "i8")
    pages[:] = np.arange(pages.size).reshape(pages.shape)
    indexes = memory.array(np.arange(PAGES)[::-1].copy())
    memory.evict(pages)
    memory.evict(indexes)
    assert not pool.put_many(3, indexes, pages).any()
    assert pool.put(4, 0, pages[5])
    pages[:] = 0
    memory.evict(pages)
    found = pool.get_many(3, indexes, pages)
    assert found.all()
    assert all(
        (pages[at : at + 1000].ravel() == np.arange(at * WORDS, (at + 1000) * WORDS)).all()
        for at in range(0, PAGES, 1000)
    )
    assert pool.flush_page(3, PAGES - 1 - 64)
    memory.evict(pages)
    assert np.flatnonzero(~pool.get_many(3, indexes, pages)).tolist() == [64]
    assert pages[64, 0] == 64 * WORDS  # its part is left alone
    memory.evict(pages)
    assert pool.get(4, 0, into=pages[7]) is True
    assert (pages[7] == np.arange(5 * WORDS, 6 * WORDS)).all()
    assert pool.get(4, 1, into=pages[8]) is False
    assert pool.check() == []


def test_batches_of_others_do_not_keep_a_thread_waiting() -> None:
    """Two threads put large batches without an end; a third gets on, page for page."""
    host = tmem.Host("32M")
    pool = tmem.Pool(host=host)
    stop = threading.Event()
    batch = np.random.default_rng(1).bytes(2000 * PAGE)

    def work(at: int) -> None:
        while not stop.is_set():
            pool.put_many(at, range(2000), batch)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(200):
            assert pool.put(9, n, batch[:PAGE])
            assert pool.get(9, n) == batch[:PAGE]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert pool.check() == []
