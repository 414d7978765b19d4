# SPDX-License-Identifier: Apache-2.0
"""Saves among threads that flush, get and put, and among processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pytest

from tests import savedfile
from tmem import Host, Pool, Reason
from tmem.newfile import NewFile

PAGES = 20_000
Words = npt.NDArray[np.int64]

RESTORE = """
import sys
import numpy as np
import tmem

pool = tmem.Pool.restore(sys.argv[1], host=tmem.Host("64M"))
into = np.empty((int(sys.argv[2]), 512), "i8")
assert pool.get_many(3, range(len(into)), into).all() and pool.stats().pages == len(into)
assert (into == (np.arange(into.size) * 3).reshape(into.shape)).all()
print(pool.name)
"""
FORK = """
import os, sys, threading
import numpy as np
import tmem
from tmem.newfile import NewFile

path, kind = sys.argv[1:]
host = tmem.Host("32M")
pool = tmem.Pool(host=host)
pool.put_many(1, range(500), np.random.default_rng(1).bytes(500 << 12))
plain = NewFile.write

def child_is_well():
    assert not pool.frozen and pool.put(2, 0, bytes(4096)) and host.check() == []
    NewFile.write = plain
    assert pool.save(path + ".child") == 501

def fork(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.frozen

def in_a_thread():
    begun, go = threading.Event(), threading.Event()

    def wait(self, piece):
        begun.set()
        go.wait()
        plain(self, piece)

    NewFile.write = wait
    thread = threading.Thread(target=pool.save, args=[path])
    thread.start()
    begun.wait()
    fork(child_is_well)
    go.set()
    thread.join()

def in_the_middle():
    # As a signal handler might that forks and returns in the child as well.
    def write(self, piece):
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        plain(self, piece)

    NewFile.write, parent = write, os.getpid()
    try:
        pool.save(path)
    except tmem.SaveError as error:
        assert os.getpid() != parent and "forked child" in str(error), error
        child_is_well()
        os._exit(7)

in_a_thread() if kind == "thread" else in_the_middle()
assert not pool.frozen
for name, pages in (("", 500), (".child", 501)):
    assert tmem.Pool.restore(path + name, host=host).stats().pages == pages
assert len(os.listdir(os.path.dirname(path))) == 2
print("done")
"""


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_process_restores_what_this_one_saved(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    with Pool(host=Host("64M"), name="sent") as pool:
        pool.put_many(3, range(3000), np.arange(3000 * 512) * 3)
        pool.save(path)
    assert run(RESTORE, str(path), "3000") == "sent\n"


@pytest.mark.parametrize("kind", ["thread", "handler"])
def test_a_fork_in_the_middle_of_a_save_harms_neither(tmp_path: Path, kind: str) -> None:
    assert run(FORK, str(tmp_path / "pages"), kind) == "done\n"


class Busy:
    """Threads that flush a pool's pages in order, read them backwards, and put others, while it is saved."""

    def __init__(self, pool: Pool, words: Words) -> None:
        self.pool, self.words = pool, words
        self.begun, self.ended = threading.Event(), threading.Event()
        self.flushed = 0
        self.wrong: list[str] = []
        self.threads = [threading.Thread(target=work) for work in (self.flush, self.read, self.put)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.begun.set()
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def flush(self) -> None:
        self.begun.wait()
        while not self.ended.is_set() and self.flushed < PAGES:
            if not self.pool.flush_page(1, self.flushed):
                self.wrong.append(f"page {self.flushed} had gone")
            self.flushed += 1

    def read(self) -> None:
        at = PAGES - 1
        while not self.ended.is_set():
            page = self.pool.get(1, at)
            if page != self.words[at].tobytes() and not (page is None and at <= self.flushed):
                self.wrong.append(f"page {at} reads as another")
            at = (at - 37) % PAGES

    def put(self) -> None:
        self.begun.wait()
        while not self.ended.is_set():
            if self.pool.put(2, 0, self.words[0]):
                self.wrong.append("a pool that is being saved took a page")


def test_what_threads_do_meanwhile_is_in_the_file_up_to_one_moment(tmp_path: Path) -> None:
    """One thread flushes in order, so the file must have all pages from some index on."""
    path, host = tmp_path / "pages", Host("128M")
    pool = Pool(host=host)
    words = np.random.default_rng(2).integers(0, 2**63, (PAGES, 512))
    words[:, 64:] = 5
    assert not pool.put_many(1, range(PAGES), words).any()
    with Busy(pool, words) as busy, pytest.MonkeyPatch.context() as patch:
        write, publish = NewFile.write, NewFile.publish

        def begin(file: NewFile, piece: bytes) -> None:
            busy.begun.set()
            write(file, piece)

        def end(file: NewFile) -> None:
            publish(file)
            busy.__exit__()

        patch.setattr(NewFile, "write", begin)
        patch.setattr(NewFile, "publish", end)
        pages = pool.save(path)
    assert busy.wrong == []
    assert pool.stats().refused[Reason.FROZEN.counter] > 0
    left = savedfile.live(path.read_bytes())
    assert left == {(1, index) for index in range(PAGES - pages, PAGES)}
    restored = Pool.restore(path, host=host)
    assert restored.stats().pages == pages
    for index in range(PAGES - pages, PAGES, 97):
        assert restored.get(1, index) == words[index].tobytes()
    assert host.check() == []
