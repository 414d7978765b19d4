# SPDX-License-Identifier: Apache-2.0
"""`tmem bench` for real: its loop beside NumPy, a small run, and the kernel's swap, behind which nothing may stay."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tmem import _core
from tmem.bench import kernel, measure, undo
from tmem.bench.data import DATA, make
from tmem.bench.jobs import JOBS, JobData, Plain, run_job
from tmem.bench.patterns import PATTERNS, mode, orders
from tmem.bench.peers import missing
from tmem.bench.walk import PAGE, WORDS, Walker, places
from tmem.cli.main import main
from tmem.errors import TmemError

PAGES = 300


def pages(count: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(-1, count * PAGE), np.uint8)


@pytest.fixture
def source() -> npt.NDArray[np.uint8]:
    made = pages(PAGES)
    made[:] = np.random.default_rng(5).integers(0, 256, made.size, np.uint8)
    return made


def expected(source: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint64]:
    words: npt.NDArray[np.uint64] = source.view(np.uint64)[np.arange(PAGES) * WORDS + places(PAGES, seed)]
    return words


@pytest.mark.parametrize("threads", [1, 2])
def test_every_pattern_leaves_what_numpy_says(source: npt.NDArray[np.uint8], threads: int) -> None:
    walker = Walker(source, 9)
    walker.memory = pages(PAGES)
    should, where = source.copy().view(np.uint64), places(PAGES, 9)
    writes = 0
    for pattern in PATTERNS:
        order = orders(pattern, PAGES, 9, threads)
        done = walker.walk(mode(pattern), order)
        assert done.accesses == sum(map(len, order))
        if mode(pattern) == "write":
            writes += 1
            wanted = np.unique(np.concatenate(order))
            should[wanted * WORDS + where[wanted]] += np.uint64(writes)
        assert np.array_equal(walker.memory.view(np.uint64), should)
    walker.verify()


def test_a_pass_with_a_time_to_end_counts_what_it_did(source: npt.NDArray[np.uint8]) -> None:
    walker = Walker(source, 9)
    walker.memory = pages(PAGES)
    walker.walk("fill", orders("fill", PAGES, 9, 1))
    order = np.tile(np.arange(PAGES, dtype=np.uint32), 100)
    done = walker.walk("write", [order], seconds=1e-9)
    assert 0 < done.accesses < len(order)
    walker.verify()


def test_the_order_decides_which_pages_are_touched(source: npt.NDArray[np.uint8]) -> None:
    memory = pages(PAGES)
    order = np.array([7, 3], np.uint32)
    _core.walk(memory, order, expected(source, 2), mode="write", seed=2, add=5)
    words = memory.view(np.uint64)
    assert np.array_equal(np.flatnonzero(words), np.array([3, 7]) * WORDS + places(PAGES, 2)[[3, 7]])
    assert words[7 * WORDS + places(PAGES, 2)[7]] == expected(source, 2)[7] + np.uint64(5)


def test_a_wrong_word_is_counted_and_a_wrong_byte_found(source: npt.NDArray[np.uint8]) -> None:
    memory, seed = pages(PAGES), 4
    memory[:] = source
    order, wanted = np.arange(PAGES, dtype=np.uint32), expected(source, seed)
    assert _core.walk(memory, order, wanted, mode="read", seed=seed)["wrong"] == 0
    assert _core.walk_verify(memory, source, wanted, seed=seed) == (0, None)
    at = (11 * WORDS + int(places(PAGES, seed)[11])) * 8
    memory[at] ^= 1
    told = _core.walk(memory, order, wanted, mode="read", seed=seed)
    assert (told["wrong"], told["first_wrong"][0]) == (1, 11)
    assert _core.walk_verify(memory, source, wanted, seed=seed) == (1, 11)
    memory[at] ^= 1
    for byte in (0, 17 * PAGE + 1, PAGES * PAGE - 1):
        memory[byte] ^= 0x80
        assert _core.walk_verify(memory, source, wanted, seed=seed) == (1, byte // PAGE)
        memory[byte] ^= 0x80


def test_what_cannot_be_walked_is_refused(source: npt.NDArray[np.uint8]) -> None:
    wanted, order = expected(source, 1), np.arange(PAGES, dtype=np.uint32)
    for memory, which, how, text in [
        (source, order, "dance", "mode"),
        (source, order, "fill", "source"),
        (source, np.array([PAGES], np.uint32), "read", "page 300"),
        (source[1:], order, "read", "whole pages"),
    ]:
        with pytest.raises(ValueError, match=text):
            _core.walk(memory, which, wanted, seed=1, mode=how)


def test_waits_are_those_of_the_histogram(source: npt.NDArray[np.uint8]) -> None:
    told = _core.walk(pages(PAGES), np.arange(PAGES, dtype=np.uint32), expected(source, 1), mode="write", seed=1)
    assert sum(count for _, count in told["latencies"]) == PAGES
    total = sum(ns * count for ns, count in told["latencies"])
    assert total == pytest.approx(told["seconds"] * 1e9, rel=0.2)
    assert told["longest_ns"] == pytest.approx(told["latencies"][-1][0], rel=0.1)


@pytest.mark.parametrize("name", [name for name in DATA if name not in ("heap", "flights")])
def test_data_come_from_the_seed(name: str) -> None:
    made = []
    for seed in (1, 1, 2):
        with make(name, 64 * PAGE, seed) as one:
            made.append(os.pread(one.fd, one.nbytes, 0))
    assert made[0] == made[1]
    assert len(made[0]) == 64 * PAGE
    if name not in ("ints", "zeros", "text"):
        assert made[0] != made[2]
    assert any(made[0]) is (name != "zeros")


@pytest.mark.parametrize("name", JOBS)
def test_jobs_have_the_results_of_numpy(name: str) -> None:
    source = pages(16)
    source.view(np.float64)[:] = np.random.default_rng(3).normal(size=source.size // 8)
    data = JobData(source, tuple(("f8", n * 4096, 512) for n in range(16)), table=False)
    told = run_job(name, data, Plain())
    assert told.digest == run_job(name, data, Plain()).digest
    assert told.seconds > 0
    values = source.view(np.float64)
    if name == "sort":
        assert told.digest == _digest(np.sort(values))
    if name == "cumsum":
        assert told.digest == _digest(np.cumsum(values[: values.size // 2]))


def _digest(array: npt.NDArray[Any]) -> str:
    import zlib  # noqa: PLC0415 - one test's

    return f"{len(array)}:{zlib.crc32(array.tobytes()):08x}"


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize("path", ["", "none/here"])
def test_what_cannot_be_written_is_known_before_the_run(
    tmp_path: Path, option: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if option == "--plot":
        pytest.importorskip("matplotlib")
    assert main(["bench", option, str(tmp_path / path)]) == 125
    said = capsys.readouterr()
    assert "cannot be written" in said.err
    assert "comparisons" not in said.err


def test_a_small_run_tells_its_rows(tmp_path: Path, entries: list[str]) -> None:
    out = tmp_path / "rows.json"
    code = main(
        [
            "bench",
            "--size",
            "16M",
            "--data",
            "ints",
            "--peers",
            "plain",
            "--rounds",
            "1",
            "--entry",
            entries[0],
            "--patterns",
            "fill",
            "random_write",
            "--json",
            str(out),
        ]
    )
    document = json.loads(out.read_text())
    assert code == 0
    assert set(document) >= {"machine", "rows", "skipped"}
    assert [(row["pattern"], row["peer"], row["verified"]) for row in document["rows"]] == [
        ("fill", "plain", True),
        ("random_write", "plain", True),
    ]
    assert all(row["ours_ns"] > 0 and row["peer_ns"] > 0 and row["ratio"] > 0 for row in document["rows"])


def test_the_footprint_is_told_without_zram_too(
    tmp_path: Path, entries: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernel, "cgroup_missing", lambda: ("no memory cgroup", "enable it"))
    out = tmp_path / "rows.json"
    arguments = [
        "--footprint",
        "--size",
        "16M",
        "--data",
        "ints",
        "zeros",
        "random",
        "--rounds",
        "1",
        "--json",
        str(out),
    ]
    assert main(["bench", *arguments, "--entry", entries[0]]) == 0
    said = capsys.readouterr()
    assert "skipped: peer zram: no memory cgroup -> enable it" in said.err
    assert "bytes a stored page" in said.out
    rows = {row["data"]: row for row in json.loads(out.read_text())["rows"]}
    assert {row["out"] for row in rows.values()} == {(16 << 20) // PAGE}  # each page is stored, none twice
    assert rows["ints"]["warm_bytes"] < PAGE / 8
    assert (rows["zeros"]["same"], rows["zeros"]["swapped"]) == ((16 << 20) // PAGE, 0)
    assert rows["random"]["same"] == 0
    assert PAGE < rows["random"]["warm_bytes"] < PAGE * 1.02
    assert all(row["verified"] and row["ours"]["roomy"]["faults"] > 3000 for row in rows.values())
    assert main(["bench", *arguments, "--entry", entries[0], "--check"]) == 1  # nothing was compared


def test_a_worker_that_finds_wrong_bytes_fails_the_run() -> None:
    with make("ints", 16 << 20, 1) as one:
        spec = {"kind": "walk", "data": "ints", "bytes": one.nbytes, "seed": 1, "threads": 1, "steps": ["seq_first"]}
        spec |= {"fd": one.fd, "columns": [], "advice": "", "seconds": 0.0, "memory": "plain"}
        with pytest.raises(TmemError, match=r"wrong word\(s\)"):  # nobody filled it
            measure.run_worker(spec, None)


# The kernel's swap: root only


def traces() -> dict[str, Any]:
    found: dict[str, Any] = {"swaps": Path("/proc/swaps").read_text()}
    found["zram"] = sorted(path.name for path in Path("/sys/block").glob("zram*"))
    found["files"] = sorted(map(str, [*Path("/run").glob("tmem-bench-*"), *Path("/var/tmp").glob("tmem-bench-*")]))
    found["groups"] = sorted(map(str, Path("/sys/fs/cgroup").glob("**/tmem-bench-*")))
    for path in (Path("/proc/sys/vm/page-cluster"), *Path("/sys/module/zswap/parameters").glob("[ec]*")):
        found[str(path)] = path.read_text()
    return found


def command(*more: str) -> list[str]:
    peers = ("plain", "zram", "zram-cluster0", "zswap")
    able = [name for name in peers if name == "plain" or not missing(name, 32 << 20)[0]]
    arguments = ["--size", "32M", "--data", "ints", "--rounds", "1", "--peers", *able, *more]
    return [sys.executable, "-m", "tmem.cli.main", "bench", *arguments]


def footprint_command(*more: str) -> list[str]:
    arguments = ["--footprint", "--size", "32M", "--data", "ints", "zeros", "--rounds", "1", *more]
    return [sys.executable, "-m", "tmem.cli.main", "bench", *arguments]


@pytest.fixture
def need_zram(need_root: None) -> None:  # noqa: ARG001 - asked for before
    if reason := missing("zram", 32 << 20)[0]:
        pytest.skip(reason)


@pytest.mark.long
@pytest.mark.root
@pytest.mark.usefixtures("need_zram")
def test_nothing_stays_after_a_run_of_the_kernels_swap(tmp_path: Path) -> None:
    before, out = traces(), tmp_path / "rows.json"
    done = subprocess.run(
        command("--patterns", "fill", "seq_first", "--json", str(out)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert traces() == before
    rows = {row["peer"]: row for row in json.loads(out.read_text())["rows"] if row["pattern"] == "seq_first"}
    assert rows["zram"]["memory_peer"] > 16 << 20
    assert "zram device" in done.stderr


@pytest.mark.long
@pytest.mark.root
@pytest.mark.parametrize("made", [command, footprint_command])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("need_zram")
def test_nothing_stays_after_a_signal(number: signal.Signals, made: Callable[..., list[str]]) -> None:
    before = traces()
    with subprocess.Popen(made("--rounds", "9"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        _wait_for_group()
        run.send_signal(number)
        run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert traces() == before


@pytest.mark.long
@pytest.mark.root
@pytest.mark.usefixtures("need_zram")
def test_the_footprint_beside_zram_leaves_nothing_behind(tmp_path: Path) -> None:
    before, out = traces(), tmp_path / "rows.json"
    done = subprocess.run(footprint_command("--json", str(out)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert traces() == before
    rows = {row["data"]: row for row in json.loads(out.read_text())["rows"]}
    lz4 = {name: row["peers"]["lz4"] for name, row in rows.items()}
    pages = (32 << 20) // PAGE
    assert {peer["table"] % pages for peer in lz4.values()} == {0}
    assert (lz4["zeros"]["same"], lz4["zeros"]["used"], lz4["zeros"]["data"]) == (pages, 0, 0)
    assert lz4["ints"]["same"] == 0
    assert lz4["ints"]["each"] > PAGE / 4  # LZ4 finds little in numbers that differ
    assert rows["ints"]["ratio_lz4"] < 0.75
    assert min(peer["roomy"]["faults"] for peer in lz4.values()) > pages * 0.9


@pytest.mark.long
@pytest.mark.root
@pytest.mark.usefixtures("need_zram")
def test_zrams_bytes_that_were_interrupted_leave_no_device() -> None:
    before = traces()
    changes = undo.Changes()
    with pytest.raises(KeyboardInterrupt), kernel.bare_zram(changes, "lz4", 32 << 20):
        raise KeyboardInterrupt
    assert traces() == before


@pytest.mark.long
@pytest.mark.root
@pytest.mark.usefixtures("need_zram")
def test_the_next_start_clears_up_after_a_kill() -> None:
    before = traces()
    with subprocess.Popen(command("--rounds", "9"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        _wait_for_group()
        run.kill()
        run.wait(60)
    assert traces() != before
    time.sleep(1)  # its worker dies with it
    again = command("--patterns", "fill", "--peers", "zram")
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "left by a run that was killed, undone: swapoff" in done.stderr
    assert "skipped" not in done.stderr
    assert traces() == before


@pytest.mark.long
@pytest.mark.root
@pytest.mark.usefixtures("need_zram")
def test_nothing_stays_after_a_worker_that_fails() -> None:
    before = traces()
    changes = undo.Changes()

    def fail() -> None:
        with kernel.room(changes, kernel.Need("zram", "lz4"), 16 << 20, 32 << 20) as room:
            with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read(); 1 / 0"], stdin=-1) as worker:
                room.admit(worker.pid)
                worker.communicate(b"")
            raise TmemError("the worker failed")

    with pytest.raises(TmemError, match="worker failed"):
        fail()
    assert traces() == before


def _wait_for_group() -> None:
    end = time.monotonic() + 60
    while not list(Path("/sys/fs/cgroup").glob("**/tmem-bench-*/cgroup.procs")):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.parametrize("name", JOBS)
def test_jobs_make_no_temporaries_that_grow(name: str) -> None:
    nbytes = 64 << 20
    with make("floats", nbytes, 1) as one:
        spec = {"kind": "jobs", "data": "floats", "bytes": nbytes, "seed": 1, "threads": 1, "steps": [f"job:{name}"]}
        spec |= {"fd": one.fd, "columns": one.columns, "advice": "", "seconds": 0.0, "memory": "plain"}
        peak = measure.run_worker(spec, None).peak
    assert peak < nbytes + (8 << 20)
