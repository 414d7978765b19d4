# SPDX-License-Identifier: Apache-2.0
"""Saving pools to a file and restoring them: what comes back, what is refused, and that a file is whole or none."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tmem
from tests import savedfile
from tmem import Host, Pool, Reason, Refused
from tmem.newfile import NewFile

PAGE = 4096
OLD_FILE = Path(__file__).resolve().parents[1] / "data/saved-pools-1.tmem"
Pages = dict[tuple[int, int], bytes]


def noise(seed: int, pages: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(pages * PAGE)


def page(n: int) -> bytes:
    if n % 3 == 0:
        return np.full(512, n).tobytes()
    return noise(n) if n % 3 == 1 else (np.arange(512) // 9 + n).tobytes()


def fill(pool: Pool, handles: list[tuple[int, int]]) -> Pages:
    known = {handle: page(n) for n, handle in enumerate(handles)}
    for (obj, index), data in known.items():
        assert pool.put(obj, index, data)
    return known


def assert_holds(pool: Pool, known: Pages) -> None:
    assert pool.stats().pages == len(known)
    for (obj, index), data in known.items():
        assert pool.get(obj, index) == data
    assert pool.check() == []


@pytest.fixture
def host() -> Host:
    return Host("32M")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pages"


@pytest.mark.parametrize("pages", [0, 1, 2, 63, 64, 65, 1000])
def test_pools_of_every_size_come_back(host: Host, path: Path, pages: int) -> None:
    pool = Pool(host=host)
    known = fill(pool, [(n % 3, n // 3) for n in range(pages)])
    assert pool.save(path) == pages
    assert_holds(Pool.restore(path, host=host), known)
    assert_holds(pool, known)
    assert len(savedfile.all_records(path.read_bytes())) == pages


def test_first_page_of_each_object_and_sparse_indexes_come_back(host: Host, path: Path) -> None:
    indexes = [0, 1, 63, 64, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    objects = [0, 1, 2**64 - 1, 2**64, 2**128, 2**192 - 1]
    pool = Pool(host=host)
    known = fill(pool, [(obj, index) for index in reversed(indexes) for obj in objects])
    pool.save(path)
    restored = Pool.restore(path, host=host)
    assert_holds(restored, known)
    restored.save(path)
    handles = [(record.object, record.index) for record in savedfile.all_records(path.read_bytes())]
    words = [tuple(obj >> shift & (2**64 - 1) for shift in (0, 64, 128)) for obj, _ in handles]
    assert sorted(zip(words, (index for _, index in handles), strict=True)) == list(
        zip(words, (index for _, index in handles), strict=True)
    )


def test_pages_keep_the_form_they_are_stored_in(host: Host, path: Path) -> None:
    pool = Pool(host=host)
    fill(pool, [(0, n) for n in range(90)])
    before = host.stats()
    pool.save(path)
    forms = [record.form for record in savedfile.all_records(path.read_bytes())]
    counts = [forms.count(form) for form in (savedfile.SAME, savedfile.PACKED, savedfile.RAW)]
    assert counts == [before.same_pages, before.packed_pages, before.raw_pages] == [30, 30, 30]
    pool.destroy()
    restored = Pool.restore(path, host=host)
    after = host.stats()
    assert restored.stats().pages == 90
    assert (after.same_pages, after.packed_pages, after.raw_pages) == (30, 30, 30)
    assert after.data_bytes == before.data_bytes


def test_a_pool_comes_back_as_it_was_and_thawed(host: Host, path: Path) -> None:
    pool = Pool(host=host, guest="someone", name="mine", raw=False)
    pool.freeze()
    pool.save(path)
    assert pool.frozen
    restored = Pool.restore(path, host=host)
    assert (restored.name, restored.guest, restored.frozen, restored.persistent) == ("mine", "someone", False, True)
    assert restored.put(0, 0, noise(1)) == Refused(Reason.INCOMPRESSIBLE)
    other = Pool.restore(path, host=host, guest="other", name="yours")
    assert (other.name, other.guest) == ("yours", "other")


def test_several_pools_are_saved_at_one_moment_and_come_back_by_name(host: Host, path: Path) -> None:
    pools = [Pool(host=host, name=f"pool {n}", guest=f"g{n}") for n in range(3)]
    known = [fill(pool, [(n, i) for i in range(n * 70)]) for n, pool in enumerate(pools)]
    assert tmem.save_pools(path, iter(pools)) == 210
    restored = tmem.restore_pools(path, host=host)
    assert list(restored) == ["pool 0", "pool 1", "pool 2"]
    for n, pool in enumerate(restored.values()):
        assert_holds(pool, known[n])
        assert pool.guest == f"g{n}"
    with pytest.raises(ValueError, match=r"has 3 pools: use tmem\.restore_pools"):
        Pool.restore(path, host=host)


def test_files_of_version_1_are_read(host: Host) -> None:
    """Made by `python -m tests.savedfile`, when there was no other version."""
    records = savedfile.all_records(OLD_FILE.read_bytes())
    assert {record.data[0] for record in records if record.form == savedfile.PACKED} == set(savedfile.CODECS)
    restored = tmem.restore_pools(OLD_FILE, host=host)
    for (name, pool), (saved_name, known) in zip(restored.items(), savedfile.contents().items(), strict=True):
        assert (name, pool.guest) == (saved_name, f"guest-{saved_name}")
        assert_holds(pool, known)


def test_other_versions_are_refused_with_the_remedy(host: Host, path: Path) -> None:
    newer = bytearray(OLD_FILE.read_bytes())
    newer[8] = 2
    path.write_bytes(newer)
    with pytest.raises(tmem.SaveError, match=r"version 2, and this tmem reads up to 1.*a later one"):
        tmem.restore_pools(path, host=host)


def test_a_damaged_file_is_an_error_and_leaves_no_pool(host: Host, path: Path) -> None:
    whole = OLD_FILE.read_bytes()
    random = np.random.default_rng(3)
    for at in [*range(160), *random.integers(160, len(whole), 60).tolist()]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(tmem.SaveError):
            tmem.restore_pools(path, host=host)
        path.write_bytes(whole[:at])
        with pytest.raises(tmem.SaveError):
            tmem.restore_pools(path, host=host)
    assert all(guest.pools == 0 for guest in host.guests().values())
    assert host.stats().pages == 0


@pytest.mark.parametrize("content", [b"", b"a text\n" * 1000, bytes(10_000)])
def test_what_is_no_saved_file_is_refused(host: Host, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(tmem.SaveError, match="no file of saved pools"):
        Pool.restore(path, host=host)


def test_a_missing_file_and_a_pipe_are_named(host: Host, path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        Pool.restore(path, host=host)
    assert raised.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        Pool(host=host).save(path / "below")
    with pytest.raises(IsADirectoryError):
        Pool(host=host).save(path.parent)
    os.mkfifo(path)
    for verb in (Pool(host=host).save, lambda path: Pool.restore(path, host=host)):
        with pytest.raises(tmem.SaveError):
            verb(path)


def test_a_host_without_room_says_how_much_it_needs(path: Path) -> None:
    pool = Pool(host=Host("32M"))
    known = fill(pool, [(n % 7, n) for n in range(2000)])
    pool.save(path)
    small = Host("1M")
    with pytest.raises(tmem.BudgetError, match=r"capacity of (\d+) bytes is needed; use Host.resize") as raised:
        Pool.restore(path, host=small)
    assert small.stats().pages == small.guests()["default"].pools == 0
    found = re.search(r"capacity of (\d+)", str(raised.value))
    assert found
    small.resize(int(found[1]))
    Pool.restore(path, host=small).destroy()
    small.set("default", cap="1M")
    with pytest.raises(tmem.BudgetError, match=r"at least (\d+) bytes are needed; raise it by Host.set") as raised:
        Pool.restore(path, host=small)
    found = re.search(r"at least (\d+)", str(raised.value))
    assert found
    small.set("default", cap=int(found[1]))
    assert_holds(Pool.restore(path, host=small), known)


def test_what_cannot_be_saved_is_refused_by_name(host: Host, path: Path) -> None:
    with pytest.raises(ValueError, match="ephemeral"):
        Pool(persistent=False, host=host).save(path)
    with pytest.raises(ValueError, match="of one name"):
        tmem.save_pools(path, [Pool(host=host, name="twin"), Pool(host=host, name="twin")])
    with pytest.raises(ValueError, match="several hosts"):
        tmem.save_pools(path, [Pool(host=host), Pool(host=Host("1M"))])
    with pytest.raises(ValueError, match="at least one"):
        tmem.save_pools(path, [])
    gone = Pool(host=host)
    gone.destroy()
    with pytest.raises(tmem.ClosedError):
        gone.save(path)
    assert list(path.parent.iterdir()) == []


def test_mode_is_0600_and_a_link_stays(host: Host, path: Path) -> None:
    target = path.parent / "target"
    target.write_bytes(b"old")
    target.chmod(0o644)
    path.symlink_to(target)
    mask = os.umask(0o777)
    try:
        Pool(host=host).save(path)
    finally:
        os.umask(mask)
    assert path.is_symlink()
    assert target.stat().st_mode & 0o7777 == 0o600
    assert target.read_bytes()[:8] == savedfile.MAGIC


@pytest.mark.parametrize("frozen", [False, True])
def test_a_pool_takes_nothing_while_it_is_saved_and_thaws_after(
    host: Host, path: Path, monkeypatch: pytest.MonkeyPatch, *, frozen: bool
) -> None:
    pool = Pool(host=host)
    known = fill(pool, [(0, n) for n in range(10)])
    if frozen:
        pool.freeze()
    write = NewFile.write
    pieces = []

    def meddle(file: NewFile, piece: bytes) -> None:
        pieces.append(piece)
        assert pool.put(1, len(pieces), noise(1)) == Refused(Reason.FROZEN)
        assert pool.put(0, 9, noise(1)) == Refused(Reason.FROZEN)
        assert pool.frozen
        assert pool.get(0, 0) == known[0, 0]
        assert pool.flush_page(0, len(pieces)) == (len(pieces) < 9)
        with pytest.raises(tmem.SaveError, match="being saved already"):
            pool.save(path.with_name("other"))
        pool.thaw()
        assert pool.put(0, 9, noise(1)) == Refused(Reason.FROZEN)
        if frozen:
            pool.freeze()
        write(file, piece)

    monkeypatch.setattr(NewFile, "write", meddle)
    pool.save(path)
    assert pool.frozen == frozen
    assert pool.stats().refused["frozen"] == 3 * len(pieces)
    left = {(0, n) for n in range(len(pieces) + 1, 9)} | {(0, 0)}
    # The last piece was made before it was written: what left then is still in it.
    assert savedfile.live(path.read_bytes()) == left | {(0, len(pieces))}
    assert (pool.put(1, 1, noise(1)) == tmem.Stored()) is not frozen


class Fault(BaseException):
    """Something that no handler of errors stops."""


def _failing(name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    real: Any = getattr(os, name)
    calls = []

    def fail(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) > after:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("call", ["pwrite", "fsync", "fdatasync", "link", "rename"])
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free space on that file system"),
        (OSError(errno.EIO, "Input/output error"), "the disk failed: save elsewhere"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "free space below your quota"),
        (KeyboardInterrupt(), None),
        (Fault(), None),
    ],
)
def test_a_failure_leaves_the_old_file_and_thaws_the_pool(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException, remedy: str | None
) -> None:
    pool = Pool(host=Host("32M"))
    known = fill(pool, [(0, n) for n in range(100)])
    pool.save(path)
    old = path.read_bytes()
    pool.put(1, 1, noise(3))
    with monkeypatch.context() as patch:
        _failing(call, error, patch, after=1 if call == "pwrite" else 0)
        with pytest.raises(type(error) if remedy is None else tmem.SaveError, match=remedy) as raised:
            pool.save(path)
    if isinstance(raised.value, tmem.SaveError):
        assert raised.value.filename == str(path)
        assert "is as it was" in str(raised.value)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]
    assert not pool.frozen
    assert_holds(Pool.restore(path, host=pool.host), known)


def test_a_directory_that_does_not_reach_the_disk_is_told(
    host: Host, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(host=host)
    known = fill(pool, [(0, 1)])
    with monkeypatch.context() as patch:
        _failing("fsync", OSError(errno.EIO, "Input/output error"), patch, after=2)
        with pytest.raises(tmem.SaveError, match="the new file is there, but may be gone after a power cut"):
            pool.save(path)
    assert not pool.frozen
    assert_holds(Pool.restore(path, host=host), known)


def test_names_that_a_file_should_not_have_are_damage(host: Host, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "name", property(lambda _: "two\nlines"))
    Pool(host=host).save(path)
    monkeypatch.undo()
    with pytest.raises(tmem.SaveError, match="a pool of the name"):
        Pool.restore(path, host=host)
    assert host.guests()["default"].pools == 0


def test_a_short_write_is_gone_on_with(host: Host, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(host=host)
    known = fill(pool, [(0, n) for n in range(20)])
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, data[:1000], at))
    pool.save(path)
    monkeypatch.undo()
    assert_holds(Pool.restore(path, host=host), known)


def test_where_files_have_names_leftovers_of_the_killed_are_removed(
    host: Host, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without_unnamed(name: str, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(name, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", without_unnamed)
    pool = Pool(host=host)
    with NewFile(path) as file, NewFile(path.with_name("other")) as other:
        file.write(b"half")
        assert len(list(path.parent.iterdir())) == 2
        assert pool.save(path) == 0
        assert len(list(path.parent.iterdir())) == 3, "the files of the living were taken away"
        left = path.parent / str(file._temporary)
        copy = left.with_name(left.name[:-1] + "x")
        copy.write_bytes(b"left by one who was killed")
        pool.save(path)
        assert not copy.exists()
        assert left.exists()
        other.write(b"more")
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o7777 == 0o600
