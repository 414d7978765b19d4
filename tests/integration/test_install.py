# SPDX-License-Identifier: Apache-2.0
"""tmem.install: one limit for the whole process, tried in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_installed_reaches_everything_started_later() -> None:
    assert run("""
        import threading, numpy as np, tmem
        from concurrent.futures import ThreadPoolExecutor

        def paged():
            return tmem.is_paged(np.ones(100_000))

        early = ThreadPoolExecutor(1)
        early.submit(int).result()
        installed = tmem.install("32M", threshold="64K")
        results = []
        thread = threading.Thread(target=lambda: results.append(paged()))
        thread.start(); thread.join()
        big = np.arange(20_000_000)
        assert int(big.sum()) == 199999990000000
        with tmem.limit("16M", threshold="1G"):
            inner = paged()
        print(paged(), results, early.submit(paged).result(), inner, tmem.stats().numpy.share == 1.0)
        assert tmem.stats().ram == 48 << 20 or tmem.stats().ram == 32 << 20
        tmem.uninstall()
        print(paged(), early.submit(paged).result())
    """).splitlines() == ["True [True] True False True", "False False"]


def test_installing_twice_or_ending_what_is_not_there_is_an_error() -> None:
    assert run("""
        import tmem
        for ask in (tmem.uninstall, lambda: [tmem.install("16M"), tmem.install("16M")]):
            try:
                ask()
            except tmem.TmemError as error:
                print(str(error).split(":")[0][-12:])
        try:
            with tmem.limit("16M"):
                tmem.uninstall()
        except tmem.TmemError as error:
            print(error)
    """).splitlines() == [
        "is installed",
        "lled already",
        "a limit is in force in this context: uninstall after it has ended",
    ]


def test_arrays_alive_at_the_end_do_no_harm() -> None:
    assert run("""
        import numpy as np, tmem
        tmem.install("16M", threshold=0)
        keep = [np.arange(n) for n in range(1000)]
        print(sum(int(a.sum()) for a in keep))
    """) == str(sum(n * (n - 1) // 2 for n in range(1000)))


def test_the_peak_of_unchanged_code_stays_within_the_budget() -> None:
    assert (
        run("""
        import numpy as np, tmem

        def peak():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

        def work(mib):
            tables = [np.arange(mib << 17) * n for n in range(8)]
            for table in tables:
                table += 1
            tables = [np.sqrt(table[::2].astype("f8")) for table in tables]
            return float(sum(table.sum() for table in tables))

        with tmem.limit("16M") as limit:
            small = work(2)
        base, budget = peak(), 64 << 20
        with tmem.limit(budget) as limit:
            result = work(32)
        over = peak() - base
        assert limit.stats().evictions > 10_000
        assert result == work(32)
        print(over <= budget * 1.05 + (16 << 20) or over)
    """)
        == "True"
    )


def test_arrow_and_its_own_threads_are_no_obstacle(entry: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert (
        run(f"""
        import numpy as np, pyarrow as pa, tmem
        strings = pa.array(["a string of some length"] * 100_000)  # its pool starts a thread that blocks every signal
        with tmem.limit("16M", faults={entry!r}):
            array = np.arange(6_000_000)
            wrapped = pa.Array.from_buffers(pa.int64(), array.size, [None, pa.py_buffer(array)])
            print(wrapped.sum().as_py() == 6_000_000 * 5_999_999 // 2, tmem.stats().numpy.arrow > 2_000_000)
            print(tmem.stats().memories[0].evictions > 1000)
    """).split()
        == ["True"] * 3
    )


def test_huge_pages_that_are_not_used_whole_count() -> None:
    assert (
        run("""
        import tmem

        def peak():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

        base, budget = peak(), 128 << 20
        memory = tmem.Memory(budget)
        arrays = []
        while memory.stats().mapped < budget * 9 // 10:
            arrays.append(memory.zeros((2 << 20) + 4096, "u1"))
            arrays[-1][:] = 1
        over = peak() - base
        print(over <= budget * 1.05 + (16 << 20) or over)
    """)
        == "True"
    )
