# SPDX-License-Identifier: Apache-2.0
"""tmem.limit: what NumPy makes inside it is paged, what it makes outside is not, and every value is right."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import multiprocessing.pool
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import tmem
from tmem.numpylimit import in_force

RAM = 16 << 20
LARGE = 100_000  # bytes, above the default threshold


@pytest.fixture
def limit(entry: str) -> Iterator[Callable[..., tmem.Limit]]:
    """Make limits that are closed and found sound at the end."""
    made: list[tmem.Limit] = []

    def maker(ram: int | str = RAM, **options: Any) -> tmem.Limit:
        made.append(tmem.limit(ram, **({"faults": entry, "swap": "256M"} | options)))
        return made[-1]

    yield maker
    gc.collect()
    for one in made:
        assert one.memory.check() == []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a failed test's arrays are no news
            one.close()


def made_here_is_paged() -> bool:
    return tmem.is_paged(np.ones(LARGE, "u1"))


def test_arrays_are_paged_inside_only_and_outlive_it(limit: Any) -> None:
    one = limit()
    assert not made_here_is_paged()
    with one as entered:
        assert entered is one
        array = np.arange(4 * RAM // 8)
        doubled = array * 2
        assert tmem.is_paged(array)
        assert tmem.is_paged(doubled[::-3])
    assert not made_here_is_paged()
    assert (doubled == np.arange(4 * RAM // 8) * 2).all()
    stats = one.stats()
    assert stats.armed
    assert stats.evictions > 0
    with pytest.warns(ResourceWarning, match="2 array"):
        one.close()
    assert doubled[-1] == 2 * (4 * RAM // 8 - 1)
    del array, doubled
    gc.collect()
    assert one.memory.check() == []


def test_the_threshold_divides_and_small_arrays_may_be_packed(limit: Any) -> None:
    plain = limit(threshold=4096)
    with plain:
        assert tmem.is_paged(np.empty(4096, "u1"))
        assert not tmem.is_paged(np.empty(4095, "u1"))
    blocks = plain.blocks()
    assert blocks["paged"] >= 1
    assert blocks["plain"] >= 1
    packed = limit(threshold=4096, small="packed")
    with packed:
        few = [np.full(100, n, "u1") for n in range(200)]
    assert all(tmem.is_paged(array) for array in few)
    assert len({array.__array_interface__["data"][0] // 4096 for array in few}) < 50
    tmem.evict(few[0])
    assert all((array == n).all() for n, array in enumerate(few))


def test_every_way_numpy_asks_for_memory_gives_right_values(limit: Any) -> None:
    with limit(threshold=0):
        zeros = [np.zeros(n, "u1") for n in (1, 15, 16, 17, 4095, 4096, 40_000, 100_000)]
        for array in zeros:
            array.fill(1)
        again = [np.zeros(array.size, "u1") for array in zeros]
        assert not any(array.any() for array in again)
        grown = np.fromiter((n * n for n in range(200_000)), "i8")
        assert (grown == np.arange(200_000) ** 2).all()
        grown.resize(1000, refcheck=False)
        grown.resize(300_000, refcheck=False)
        assert (grown[:1000] == np.arange(1000) ** 2).all()
        assert not grown[1000:].any()
        assert np.empty((2, 0, 2)).size == 0
        objects = np.array([{"n": n} for n in range(1000)], dtype=object)
        tmem.evict(objects)
        assert [each["n"] for each in objects] == list(range(1000))
        fields = np.zeros(5000, "i4,f8,S7")
        fields["f2"] = b"seven.."
        tmem.evict(fields)
        assert (fields["f2"] == b"seven..").all()


def test_blocks_that_come_and_go_keep_their_values(limit: Any) -> None:
    rng = np.random.default_rng(7)
    one = limit(threshold=2048, small="packed")
    kept: dict[int, Any] = {}
    with one:
        for step in range(3000):
            size = int(2 ** rng.uniform(0, 17))
            kept[step % 97] = (step % 251, np.full(size, step % 251, "u1"))
            if step % 500 == 0:
                for _, array in kept.values():
                    tmem.evict(array)
        assert all((array == value).all() for value, array in kept.values())
    kept.clear()
    gc.collect()
    assert one.stats().resident + one.stats().standby < RAM // 2


def test_limits_nest(limit: Any) -> None:
    outer, inner = limit(name="outer"), limit(name="inner", threshold=1 << 20)
    with outer:
        with inner:
            assert not made_here_is_paged()
            with outer:
                assert made_here_is_paged()
        assert made_here_is_paged()
    assert not made_here_is_paged()


def test_limits_that_end_out_of_order_leave_the_others_in_force(limit: Any) -> None:
    first: tmem.Limit = limit()
    second: tmem.Limit = limit(threshold=1 << 30)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not made_here_is_paged()  # the second's threshold is high
    assert in_force() is second
    second.__exit__(None, None, None)
    assert in_force() is None
    assert not made_here_is_paged()
    with pytest.warns(tmem.TmemWarning, match="another context"):
        first.__exit__(None, None, None)
    assert in_force() is None


def test_a_function_a_coroutine_and_a_task_run_under_it(limit: Any) -> None:
    one: tmem.Limit = limit()

    @one
    def function(value: int) -> tuple[int, bool]:
        """Say so."""
        return value, made_here_is_paged()

    @one
    async def coroutine() -> bool:
        await asyncio.sleep(0)
        return made_here_is_paged()

    async def several() -> list[bool]:
        with one:
            task = asyncio.create_task(asyncio.to_thread(made_here_is_paged))
            direct = await asyncio.get_running_loop().run_in_executor(None, made_here_is_paged)
        return [await coroutine(), await task, direct, made_here_is_paged()]

    assert function(3) == (3, True)
    assert function.__doc__ == "Say so."
    assert asyncio.run(several()) == [True, True, True, False]
    assert not made_here_is_paged()
    with pytest.raises(TypeError, match="generator"):

        @one
        def generator() -> Iterator[int]:
            yield 1


def test_threads_and_pool_tasks_are_reached_and_workers_stay_neutral(limit: Any) -> None:
    results: list[bool] = []

    class Own(threading.Thread):
        def run(self) -> None:
            results.append(made_here_is_paged())

    with ThreadPoolExecutor(1) as older, multiprocessing.pool.ThreadPool(1) as older_pool:
        assert not older.submit(made_here_is_paged).result()
        with limit(), ThreadPoolExecutor(1) as younger, multiprocessing.pool.ThreadPool(1) as younger_pool:
            for thread in (threading.Thread(target=lambda: results.append(made_here_is_paged())), Own()):
                thread.start()
                thread.join()
            timer = threading.Timer(0, lambda: results.append(made_here_is_paged()))
            timer.start()
            timer.join()
            assert results == [True] * 3
            for executor in (older, younger):
                assert executor.submit(made_here_is_paged).result()
                assert list(executor.map(lambda _: made_here_is_paged(), range(3))) == [True] * 3
            for pool in (older_pool, younger_pool):
                assert pool.apply(made_here_is_paged)
                assert pool.apply_async(func=made_here_is_paged).get()
                assert pool.map(lambda _: made_here_is_paged(), range(2)) == [True] * 2
                assert list(pool.imap(func=lambda _: made_here_is_paged(), iterable=range(2))) == [True] * 2
                assert pool.starmap(lambda _a, _b: made_here_is_paged(), [(1, 2)]) == [True]
            neutral: Callable[[], bool] = made_here_is_paged
            worker_after = younger.submit(neutral)
            assert worker_after.result()
        assert not older.submit(made_here_is_paged).result()
        assert not older_pool.apply(made_here_is_paged)


def test_a_worker_that_starts_inside_is_neutral_afterwards(limit: Any) -> None:
    executor, pool = ThreadPoolExecutor(1), None
    try:
        with limit():
            assert executor.submit(made_here_is_paged).result()
            pool = multiprocessing.pool.ThreadPool(1)
            assert pool.apply(made_here_is_paged)
        assert not executor.submit(made_here_is_paged).result()
        assert not pool.apply(made_here_is_paged)
    finally:
        executor.shutdown()
        if pool is not None:
            pool.close()
            pool.join()


def test_what_escapes_is_shown(limit: Any) -> None:
    go, done = threading.Event(), threading.Event()
    arrays: dict[str, Any] = {}

    def runs_already() -> None:
        go.wait(30)
        arrays["thread"] = np.ones(3 << 20, "u1")
        done.set()

    before = threading.Thread(target=runs_already)
    before.start()
    with limit():
        arrays["managed"] = np.ones(4 << 20, "u1")
        arrays["pickle"] = pickle.loads(pickle.dumps(np.ones(2 << 20, "u1")))
        go.set()
        assert done.wait(30)
        numpy = tmem.stats().numpy
    before.join()
    assert not tmem.is_paged(arrays["thread"])
    assert not tmem.is_paged(arrays["pickle"])
    assert numpy.managed >= 4 << 20
    assert numpy.escaped >= 5 << 20
    assert numpy.by_owner["bytes"] >= 2 << 20
    assert numpy.by_owner["numpy"] >= 3 << 20
    assert 0 < numpy.share < 1


def test_no_room_is_a_memory_error_with_the_reason_and_loses_nothing(limit: Any) -> None:
    one = limit()
    with one:
        kept = np.arange(LARGE)
    with pytest.raises(MemoryError) as caught, one:
        np.zeros(1 << 44, "u1")
    assert any("tmem.limit" in note and "refused" in note for note in caught.value.__notes__)
    assert one.blocks()["refused"] == 1
    assert (kept == np.arange(LARGE)).all()
    assert not made_here_is_paged()


def test_a_closed_limit_makes_no_more_arrays(limit: Any) -> None:
    one = limit()
    one.close()
    with pytest.raises(MemoryError) as caught, one:
        np.zeros(LARGE)
    assert any("closed" in note for note in caught.value.__notes__)


def test_a_limit_belongs_to_its_process(limit: Any) -> None:
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(limit())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"threshold": -1}, tmem.SizeError),
        ({"threshold": "2 gb"}, tmem.SizeError),
        ({"threshold": "900T"}, tmem.SizeError),
        ({"threshold": "50%"}, tmem.SizeError),
        ({"small": "tiny"}, ValueError),
        ({"faults": "none"}, ValueError),
        ({"ram": "1M"}, tmem.SizeError),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        tmem.limit(**({"ram": RAM} | options))


def _child(array: Any, queue: Any) -> None:
    grown = np.concatenate([array, array])
    queue.put((bool((grown[: array.size] == array).all()), tmem.is_paged(grown)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_the_limit_too(limit: Any) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with limit():
        array = np.arange(3 * RAM // 8)
        child = context.Process(target=_child, args=(array, queue))
        child.start()
        assert queue.get() == (True, True)
        child.join()
    assert child.exitcode == 0


def test_a_limit_ends_with_its_last_array(entry: str) -> None:
    one = tmem.limit(RAM, faults=entry, name="short-lived")

    def names() -> list[str]:
        return [each.name for each in tmem.stats().memories]

    with one:
        array = np.ones(LARGE)
    view = array[3:5]
    del one, array
    gc.collect()
    assert "short-lived" in names()
    assert tmem.evict(view) > 0
    assert (view == 1).all()
    del view
    gc.collect()
    assert "short-lived" not in names()


def test_a_huge_array_that_is_hardly_touched_fits_and_gives_its_tables_back(limit: Any) -> None:
    one = limit()
    with one:
        metadata = one.stats().metadata
        huge = np.zeros(40 * RAM, "u1")
        huge[::RAM] = 7
        assert one.stats().metadata > metadata
        assert int(huge[: 2 * RAM].sum()) == 14
        del huge
        assert one.stats().metadata - metadata < 1 << 20
        assert np.full(RAM, 3, "u1").sum() == 3 * RAM


def test_an_interrupt_finds_the_limit_in_force_or_not_and_nothing_between(limit: Any) -> None:
    one = limit()

    class Interrupt(BaseException):
        pass

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(400):
            with suppress(Interrupt):
                signal.setitimer(signal.ITIMER_REAL, 2e-5 + turn * 5e-7)
                while True:
                    with one:
                        pass
            # As with any context manager, it may come before the first step or after the last.
            assert (in_force() is one) == made_here_is_paged()
            while in_force() is not None:
                one.__exit__(None, None, None)
            assert not made_here_is_paged()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_array_may_always_shrink(limit: Any) -> None:
    one = limit()
    with one:
        array = np.arange(1 << 17)
        one.memory._core.close()
        array.resize(1 << 15, refcheck=False)
    assert (array == np.arange(1 << 15)).all()


def test_notes_are_for_what_was_refused(limit: Any) -> None:
    one = limit()

    def refused_then_fails() -> None:
        with suppress(MemoryError):
            np.zeros(1 << 44, "u1")
        raise MemoryError

    with pytest.raises(MemoryError) as caught, one:
        refused_then_fails()
    assert not hasattr(caught.value, "__notes__")


def test_threads_that_cannot_be_carried_start_all_the_same(limit: Any) -> None:
    results: list[bool] = []

    class Fixed(threading.Thread):
        @property
        def run(self) -> Callable[[], None]:
            return lambda: results.append(made_here_is_paged())

    own = threading.Thread()
    own.run = lambda: results.append(made_here_is_paged())  # type: ignore[method-assign]
    with limit():
        for thread in (Fixed(), own):
            thread.start()
            thread.join()
    assert results == [False, True]
    own.run()
    assert results[-1] is False


def test_what_only_looks_like_a_function_runs_under_it(limit: Any) -> None:
    class Task:
        async def __call__(self) -> bool:
            return made_here_is_paged()

    async def coroutine() -> bool:
        return made_here_is_paged()

    def maker() -> Any:
        return coroutine()

    one: tmem.Limit = limit()
    assert asyncio.run(one(Task())())
    assert asyncio.run(one(maker)())
    with pytest.raises(TypeError, match="class"):
        one(Task)


def test_memory_kept_for_the_next_arrays_is_counted(limit: Any) -> None:
    one = limit("64M")
    with one:
        for _ in range(5):
            np.ones(1 << 20, "u1")
    stats = one.stats()
    assert stats.mapped == 0
    assert stats.regions == 0
    assert stats.idle == 1 << 20
    assert stats.used >= 1 << 20
    assert one.blocks()["paged"] == 5
