# SPDX-License-Identifier: Apache-2.0
"""The hook from Python: who is asked, what falls through, what is counted, what is lost and said to be."""

from __future__ import annotations

import gc
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tmem
from tests.dictbackends import DictBackend, KeepsABuffer, Refuses
from tmem import Frontswap, Reason, Refused, Stored, SwapDevice, failures

ONE, TWO, THREE = (bytes([n]) * 4096 for n in (1, 2, 3))


@pytest.fixture
def device(tmp_path: Path) -> SwapDevice:
    return SwapDevice("64K", tmp_path)


def test_what_every_backend_refuses_goes_to_the_device_and_what_that_refuses_is_refused(device: SwapDevice) -> None:
    with Frontswap(device, [tmem.RefuseAll(), Refuses(2)], pages=100) as fs:
        answers = [fs.store(page, ONE) for page in range(20)]
        assert answers == [Stored()] * 18 + [Refused(Reason.SWAP_FULL)] * 2
        stats = fs.stats()
        assert (stats.succ_stores, stats.failed_stores, stats.pages) == (2, 18, 2)
        assert (stats.device_writes, stats.device_pages) == (16, 16)
        assert (stats.refused, stats.device_refused) == ({"unwilling": 18}, {"swap_full": 2})
        assert [page in fs for page in (0, 17, 18)] == [True, True, False]
        assert {fs.load(page) for page in range(18)} == {ONE}
        assert fs.load(19) is None
        assert (fs.stats().loads, fs.stats().device_reads) == (2, 16)
        assert device.stats().used == 16 * 4096
        assert fs.check() == device.check() == []
    assert device.stats().used == 0
    device.close()


def test_whatever_is_answered_the_old_page_is_gone(device: SwapDevice) -> None:
    backend = Refuses(1)
    with Frontswap(device, [backend], pages=100) as fs:
        assert fs.store(5, ONE)
        backend.room = 0
        assert fs.store(5, TWO)
        assert (fs.load(5), backend.pages) == (TWO, {})
        backend.room = 1
        assert fs.store(5, THREE)
        assert (fs.load(5), device.stats().used) == (THREE, 0)
        backend.room = 0
        for page in range(10, 26):
            assert fs.store(page, ONE)
        assert fs.store(5, ONE) == Refused(Reason.SWAP_FULL)
        assert (fs.load(5), 5 in fs) == (None, False)
        assert fs.check() == []


def test_a_refused_page_is_refused_where_there_is_no_device() -> None:
    with Frontswap(None, [tmem.LocalBackend("1M", pages=100)], pages=100) as fs:
        noise = np.random.default_rng(0).bytes(4096)
        assert fs.store(1, ONE)
        assert fs.store(1, noise) == Refused(Reason.INCOMPRESSIBLE)
        assert fs.load(1) is None
        assert fs.store(100, ONE) == Refused(Reason.OUT_OF_RANGE)
        assert fs.stats().refused == {"incompressible": 1, "out_of_range": 1}


def test_load_copies_to_any_buffer_of_a_page_also_to_paged_memory() -> None:
    memory = tmem.Memory("16M", swap=None)
    paged = memory.zeros(8 << 20, "u1")
    memory.evict(paged)
    with Frontswap(None, [tmem.PlainCopies(100), DictBackend()], pages=100) as fs:
        paged[:4096] = 7
        memory.evict(paged)
        assert fs.store(0, paged[:4096])
        assert fs.load(0, into=paged[8192:12288])
        assert (int(paged[8192:12288].sum()), int(paged.sum())) == (7 * 4096, 14 * 4096)
        target = bytearray(4096)
        assert fs.load(0, target) is True
        assert fs.load(1, target) is False
        assert target == bytes([7]) * 4096
        assert fs.store(2, np.arange(512).reshape(16, 32, order="F"))
        for wrong in (b"", bytes(4095), bytes(8192)):
            with pytest.raises(ValueError, match="4096 bytes is needed"):
                fs.store(2, wrong)
        with pytest.raises(ValueError, match="4096 bytes is needed"):
            fs.load(2, bytearray(9))
        with pytest.raises(BufferError):
            fs.load(2, bytes(4096))
        with pytest.raises(TypeError):
            fs.store(2, 5)
        assert 2 in fs, "a wrong call loses nothing"
        for number in (-1, 1 << 63):
            with pytest.raises(ValueError, match="begin at 0"):
                fs.store(number, ONE)
    del paged
    memory.close()


def test_an_invalidated_area_takes_nothing_until_it_is_announced(device: SwapDevice) -> None:
    backend = DictBackend()
    with Frontswap(device, [backend], pages=10) as fs:
        assert backend.areas == {fs.area: 10}
        fs.store(1, ONE)
        fs.invalidate_area()
        assert (backend.pages, backend.areas) == ({}, {})
        assert fs.store(1, ONE) == Refused(Reason.NO_AREA)
        assert device.stats().written == 0
        fs.init()
        assert fs.load(1) is None
        fs.init(pages=20)
        assert backend.areas == {fs.area: 20}
        assert fs.store(19, ONE)
        fs.init()
        assert fs.load(19) == ONE, "to announce again forgets nothing"
        fs.invalidate_page(19)
        fs.invalidate_page(19)
        assert fs.stats().invalidates == 1
    assert backend.areas == {}


def test_a_backend_that_comes_late_is_asked_last() -> None:
    first, late = Refuses(1), DictBackend()
    with Frontswap(None, [first], pages=10) as fs:
        assert [bool(fs.store(page, ONE)) for page in (0, 1)] == [True, False]
        fs.register(late)
        assert late.areas == {fs.area: 10}
        assert [bool(fs.store(page, TWO)) for page in (0, 1)] == [True, True]
        assert set(first.pages) == {(fs.area, 0)}
        assert set(late.pages) == {(fs.area, 1)}
        assert (fs.load(0), fs.load(1)) == (TWO, TWO)
        with pytest.raises(TypeError, match=r"tmem\.FrontswapOps"):
            fs.register(object())  # type: ignore[arg-type]
        for _ in range(62):
            fs.register(tmem.RefuseAll())
        with pytest.raises(ValueError, match="at most 64"):
            fs.register(tmem.RefuseAll())


def test_writethrough_keeps_the_page_on_the_device_too_and_a_forgotten_copy_is_no_loss(device: SwapDevice) -> None:
    backend = DictBackend()
    with pytest.raises(ValueError, match="writethrough needs a swap device"):
        Frontswap(None, [backend], writethrough=True)
    with Frontswap(device, [backend], pages=100, writethrough=True) as fs:
        assert fs.store(1, ONE)
        stats = fs.stats()
        assert (stats.succ_stores, stats.failed_stores, stats.device_writes) == (1, 0, 1)
        assert fs.load(1) == ONE
        assert fs.stats().device_reads == 0
        backend.pages.clear()
        assert (fs.load(1), fs.stats().device_reads) == (ONE, 1)
        for page in range(2, 17):
            assert fs.store(page, ONE)
        assert fs.store(17, ONE) == Refused(Reason.SWAP_FULL)
        assert (17 in fs, fs.load(17)) == (False, None)
        assert (fs.area, 17) not in backend.pages
        assert fs.check() == []


@pytest.mark.parametrize("writethrough", [False, True])
def test_an_exclusive_load_takes_the_page_out_of_everything(device: SwapDevice, *, writethrough: bool) -> None:
    backend = Refuses(1)
    with Frontswap(device, [backend], pages=100, exclusive=True, writethrough=writethrough) as fs:
        assert fs.store(1, ONE)
        assert fs.store(2, TWO)
        assert (fs.load(1), fs.load(2)) == (ONE, TWO)
        assert (fs.load(1), fs.load(2), 1 in fs) == (None, None, False)
        assert (backend.pages, device.stats().used) == ({}, 0)
        assert fs.check() == []


class Moody(DictBackend):
    """Raises what it is told to."""

    mood: BaseException | None = None

    def store(self, area: int, page: int, data: memoryview) -> Any:
        if self.mood:
            raise self.mood
        return super().store(area, page, data)

    def load(self, area: int, page: int) -> Any:
        if self.mood:
            raise self.mood
        return super().load(area, page)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(failures, "_next", {})
    monkeypatch.setattr(failures, "_untold", {})
    caplog.set_level(logging.WARNING, "tmem")
    return caplog


def test_a_backend_that_raises_has_refused_and_the_log_says_so_once(log: Any, device: SwapDevice) -> None:
    moody = Moody()
    with Frontswap(device, [moody], pages=100) as fs:
        moody.mood = RuntimeError("contents: \x01\x01\x01")
        assert [bool(fs.store(page, ONE)) for page in range(5)] == [True] * 5
        assert fs.stats().refused == {"backend_failed": 5}
        assert fs.stats().device_writes == 5
    text = log.messages[0]
    assert "store of backend Moody raised RuntimeError in" in text
    assert "next backend" in text
    assert "contents" not in log.text
    assert len(log.messages) == 1


def test_a_page_that_a_backend_cannot_give_back_is_lost_with_the_cause(log: Any) -> None:
    moody = Moody()
    with Frontswap(None, [moody], pages=100) as fs:
        fs.store(1, ONE)
        moody.mood = OSError("the disk is gone")
        for _ in range(2):
            with pytest.raises(tmem.PageLostError, match="page 1: a stored page is lost") as caught:
                fs.load(1)
            assert caught.value.__cause__ is moody.mood
        moody.mood = None
        assert fs.load(1) == ONE, "it is the backend's to find it again"
        for wrong in (None, b"short", 5):
            moody.pages[fs.area, 1] = wrong
            with pytest.raises(tmem.PageLostError):
                fs.load(1)
        fs.invalidate_page(1)
        assert fs.load(1) is None
    assert log.messages


def test_with_writethrough_a_backend_that_raises_in_load_is_no_loss(log: Any, device: SwapDevice) -> None:
    moody = Moody()
    with Frontswap(device, [moody], pages=100, writethrough=True) as fs:
        fs.store(1, ONE)
        moody.mood = OSError()
        assert fs.load(1) == ONE
    assert "load of backend Moody raised OSError" in log.text


def test_an_interrupt_in_a_backend_is_the_callers_and_the_page_is_safe(device: SwapDevice) -> None:
    moody = Moody()
    with Frontswap(device, [moody], pages=100) as fs:
        moody.mood = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            fs.store(1, ONE)
        assert fs.load(1) == ONE
        assert fs.check() == []


class Stores(DictBackend):
    """Calls a Frontswap in the middle of a store."""

    def __init__(self) -> None:
        super().__init__()
        self.target: Frontswap | None = None
        self.error: Exception | None = None

    def store(self, area: int, page: int, data: memoryview) -> Any:
        try:
            assert self.target is not None
            self.target.store(page, data)
        except tmem.TmemError as error:
            self.error = error
            raise
        return super().store(area, page, data)


def test_a_backend_that_calls_its_own_hook_gets_an_error_and_no_deadlock(log: Any) -> None:
    backend = Stores()
    with Frontswap(None, [backend], pages=10) as fs, Frontswap(None, [DictBackend()], pages=10) as other:
        backend.target = fs
        assert fs.store(1, ONE) == Refused(Reason.BACKEND_FAILED)
        assert "a backend called the Frontswap that was calling it" in str(backend.error)
        backend.target = other
        assert fs.store(1, ONE)
        assert other.load(1) == ONE
    assert len(log.messages) == 1


class KeepsViews(DictBackend):
    """Keeps the view itself."""

    def store(self, area: int, page: int, data: memoryview) -> Any:
        self.pages[area, page] = data
        assert data.readonly
        return True


def test_a_view_that_a_backend_keeps_is_of_no_use_after_the_call(log: Any) -> None:
    backend = KeepsViews()
    with Frontswap(None, [backend], pages=10) as fs:
        assert fs.store(1, ONE)
        with pytest.raises(ValueError, match="released"):
            bytes(backend.pages[fs.area, 1])
        with pytest.raises(tmem.PageLostError) as caught:
            fs.load(1)
        assert isinstance(caught.value.__cause__, ValueError)
    assert log.messages


def test_a_backend_that_keeps_a_buffer_over_the_page_has_bytes_of_its_own() -> None:
    backend, data = KeepsABuffer(), bytearray(ONE)
    with Frontswap(None, [backend], pages=10) as fs:
        assert fs.store(1, data)
        data[:] = TWO
        assert fs.load(1) == ONE


class Waits(DictBackend):
    """Lets go of the GIL in the middle of a store, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def store(self, area: int, page: int, data: memoryview) -> Any:
        self.entered.set()
        assert self.go.wait(60)
        return super().store(area, page, data)


def test_who_waits_for_the_hook_does_not_hold_the_gil() -> None:
    backend = Waits()
    with Frontswap(None, [backend], pages=10) as fs:
        first = threading.Thread(target=fs.store, args=(1, ONE))
        first.start()
        assert backend.entered.wait(60)
        waiting = [threading.Thread(target=fs.store, args=(n, TWO)) for n in (2, 3)]
        for thread in waiting:
            thread.start()
        backend.go.set()  # which needs the GIL, while two wait for the hook
        for thread in (first, *waiting):
            thread.join(60)
        assert [fs.load(n) for n in (1, 2, 3)] == [ONE, TWO, TWO]


def test_threads_over_python_and_native_backends_never_see_a_torn_page(device: SwapDevice) -> None:
    with Frontswap(device, [tmem.LocalBackend("32K", pages=100), Refuses(2)], pages=4) as fs:
        wrong: list[object] = []

        def work(seed: int) -> None:
            chance = np.random.default_rng(seed)
            for _ in range(300):
                page = int(chance.integers(4))
                fs.store(page, np.full(512, chance.integers(1 << 60)))
                found = fs.load(page)
                if found is not None and len(set(np.frombuffer(found, "i8"))) != 1:
                    wrong.append(page)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert fs.check() == []


def test_hooks_that_share_a_backend_have_areas_of_their_own(device: SwapDevice) -> None:
    shared = [tmem.PlainCopies(100), DictBackend()]
    with Frontswap(device, shared, pages=10) as a, Frontswap(device, shared, pages=10) as b:
        assert a.area != b.area
        a.store(1, ONE)
        b.store(1, TWO)
        assert (a.load(1), b.load(1)) == (ONE, TWO)
        a.invalidate_area()
        assert b.load(1) == TWO


def test_area_numbers_are_used_again_after_close_or_when_a_hook_is_forgotten() -> None:
    backend = DictBackend()
    fs = Frontswap(None, [backend], pages=10)
    area = fs.area
    fs.close()
    fs.close()
    assert fs.closed
    with pytest.raises(tmem.ClosedError, match="make a new one"):
        fs.store(1, ONE)
    for _ in range(3):
        forgotten = Frontswap(None, [backend], pages=10)
        assert forgotten.area == area
        forgotten.store(1, ONE)
        del forgotten
        gc.collect()
        assert (backend.pages, backend.areas) == ({}, {})


def test_a_device_with_pages_on_it_is_not_closed(device: SwapDevice) -> None:
    fs = Frontswap(device, [], pages=10)
    fs.store(1, ONE)
    with pytest.raises(tmem.TmemError, match="still holds 1 page"):
        device.close()
    assert fs.load(1) == ONE
    fs.close()
    device.close()
    device.close()
    with pytest.raises(tmem.ClosedError):
        device.stats()


def test_wrong_devices_and_hooks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(tmem.SwapError):
        SwapDevice("1M", tmp_path / "missing")
    with pytest.raises(tmem.SizeError):
        SwapDevice("-1")
    for pages in (0, -5, 1 << 50):
        with pytest.raises(ValueError, match="pages must be"):
            Frontswap(None, [], pages=pages)
    with pytest.raises(TypeError, match="derive a class"):
        Frontswap(None, ["store"])  # type: ignore[list-item]


def test_a_forked_child_is_told_to_make_its_own(device: SwapDevice) -> None:
    fs = Frontswap(device, [tmem.PlainCopies(100)], pages=10)
    fs.store(1, ONE)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fs.load(1)
        except tmem.TmemError as error:
            os.write(write, str(error).encode())
        fs.close()
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert b"not for its forked children" in os.read(read, 1000)
    os.close(read)
    assert fs.load(1) == ONE
    fs.close()


def test_a_changed_page_on_the_device_is_an_error_and_not_other_bytes(device: SwapDevice, tmp_path: Path) -> None:
    with Frontswap(device, [], pages=10) as fs:
        fs.store(1, ONE)
        damaged = 0
        for path in list(Path("/proc/self/fd").iterdir()):
            if path.exists() and str(path.readlink()).startswith(f"{tmp_path}/#"):
                with path.open("r+b", buffering=0) as file:
                    file.write(bytes([99]) * 4096)
                    damaged += 1
        if not damaged:
            pytest.skip("needs a file system with unnamed files")
        with pytest.raises(tmem.PageLostError, match="checksum does not match"):
            fs.load(1)
        assert device.stats().corrupt == 1


def test_an_ops_class_that_changes_a_verb_of_a_native_backend_is_called() -> None:
    class Counting(tmem.PlainCopies):
        calls = 0

        def store(self, area: int, page: int, data: Any) -> Any:
            self.calls += 1
            return super().store(area, page, data)

    backend = Counting(100)
    with Frontswap(None, [backend], pages=10) as fs:
        assert fs.store(1, ONE)
        assert (backend.calls, fs.load(1)) == (1, ONE)


def test_a_frozen_store_refuses_and_gives(device: SwapDevice) -> None:
    store = tmem.LocalBackend("1M", pages=100)
    with Frontswap(device, [store], pages=10) as fs:
        fs.store(1, ONE)
        store.freeze()
        assert fs.store(2, TWO)
        assert (fs.stats().refused, fs.stats().device_writes) == ({"frozen": 1}, 1)
        assert (fs.load(1), fs.load(2)) == (ONE, TWO)
        store.thaw()
        assert fs.store(2, THREE)
        assert fs.stats().device_pages == 0
    with pytest.raises(ValueError, match="only a page store"):
        tmem.PlainCopies(1).core.set_frozen(True)
