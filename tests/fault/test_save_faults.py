# SPDX-License-Identifier: Apache-2.0
"""A save that is killed, or finds no room: the old file or the new one is there, whole, and nothing else for long."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tmem import Host, Pool

PAGES = 1500
SAVING = """
import os, sys
import numpy as np
import tmem

path, unnamed, first, count = sys.argv[1], sys.argv[2] == "True", int(sys.argv[3]), int(sys.argv[4])
if not unnamed:
    real = os.open
    def named_only(name, flags, *arguments, **named):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(name, flags, *arguments, **named)
    os.open = named_only
host = tmem.Host("32M")
pool = tmem.Pool(host=host, name="killed")
pages = np.frombuffer(np.random.default_rng(1).bytes(count << 12), "i8").reshape(count, 512).copy()
for generation in range(first, 1 << 40):
    pages[:, 0] = generation
    assert (pool.put_many(generation % 7, range(len(pages)), pages) == 0).all()
    pool.save(path)
    print(generation, flush=True)
    pool.flush_object(generation % 7)
"""


def _generation(path: Path) -> int:
    """Return which save the file is of; all its pages must be of that."""
    pool = Pool.restore(path, host=Host("32M"))
    assert pool.stats().pages == PAGES
    noise = np.frombuffer(np.random.default_rng(1).bytes(PAGES << 12), "i8").reshape(PAGES, 512)
    first = next(obj for obj in range(7) if (obj, 0) in pool)
    pages = np.empty((PAGES, 512), "i8")
    assert pool.get_many(first, range(PAGES), pages).all()
    generation = int(pages[0, 0])
    assert generation % 7 == first
    assert (pages[:, 0] == generation).all()
    assert (pages[:, 1:] == noise[:, 1:]).all()
    return generation


def _kill_saves(path: Path, kills: int, *, unnamed: bool) -> None:
    chance, newest = np.random.default_rng(5), 0
    for _ in range(kills):
        command = [sys.executable, "-c", SAVING, str(path), str(unnamed), str(newest + 1), str(PAGES)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as saving:
            assert saving.stdout is not None
            assert saving.stdout.readline(), saving.communicate()[1]
            time.sleep(chance.random() / 10)
            saving.kill()
            told = [newest + 1, *map(int, saving.stdout.read().split())]
        # Told is what was saved for certain; the one after it may have got there as well.
        assert _generation(path) in {told[-1], told[-1] + 1}
        newest = told[-1] + 1
        left = [one for one in path.parent.iterdir() if one != path]
        assert len(left) <= 1, "the next save removes what the killed one left"
    Pool(host=Host("1M")).save(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("unnamed", [True, False])
def test_kill_in_the_middle_of_a_save_leaves_the_old_file_or_the_new_one(tmp_path: Path, *, unnamed: bool) -> None:
    _kill_saves(tmp_path / "pages", 6, unnamed=unnamed)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("unnamed", [True, False])
def test_many_kills_leave_the_old_file_or_the_new_one(tmp_path: Path, *, unnamed: bool) -> None:
    _kill_saves(tmp_path / "pages", 30, unnamed=unnamed)


NO_ROOM = """
import os, resource, sys
import numpy as np
import tmem

path, limit = sys.argv[1], int(sys.argv[2])
host = tmem.Host("64M")
pool = tmem.Pool(host=host)
pool.put_many(1, range(100), np.random.default_rng(1).bytes(100 << 12))
pool.save(path)
old = open(path, "rb").read()
pool.put_many(2, range(5000), np.random.default_rng(2).bytes(5000 << 12))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    pool.save(path)
except tmem.SaveError as error:
    print(error)
assert open(path, "rb").read() == old and os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
assert not pool.frozen and pool.put(3, 3, bytes(4096)) and host.check() == []
assert tmem.Pool.restore(path, host=host).stats().pages == 100
assert pool.flush_object(2) == 5000 and pool.save(path) == 101
assert tmem.Pool.restore(path, host=host).stats().pages == 101
"""


def _finds_no_room(path: Path, limit: int) -> str:
    command = [sys.executable, "-c", NO_ROOM, str(path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_size_limit_is_told_with_its_remedy(tmp_path: Path) -> None:
    text = _finds_no_room(tmp_path / "pages", 4 << 20)
    assert "is as it was: raise `ulimit -f`, or save elsewhere" in text


@pytest.fixture
def small_disk(tmp_path: Path, need_root: None) -> Iterator[Path]:  # noqa: ARG001
    """Yield a file system of its own, of 8 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    if ran.returncode:
        pytest.skip(f"needs root that may run {' '.join(command)}: {ran.stderr}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True, timeout=30)


@pytest.mark.root
def test_a_full_disk_is_told_with_its_remedy(small_disk: Path) -> None:
    text = _finds_no_room(small_disk / "pages", 0)
    assert "No space left" in text
    assert "is as it was: free space on that file system, or save elsewhere" in text
