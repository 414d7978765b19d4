# SPDX-License-Identifier: Apache-2.0
"""What `tmem bench` plans and tells, with measurements that are made up: no memory is walked here."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tmem.bench import peers, plan, session, undo
from tmem.bench.measure import Measured, Run
from tmem.bench.patterns import PATTERNS, mode, orders
from tmem.bench.plan import FITS, JOB_STEPS, Cell, Clock, Wishes, make_plan
from tmem.bench.plot import draw
from tmem.bench.report import geometric, rows_of
from tmem.bench.tables import as_markdown, notes, sheets
from tmem.errors import TmemError

SCHEMA = {
    "data", "pattern", "residency", "entry", "threads", "peer", "ours_ns", "peer_ns", "ratio", "spread", "cpu_ratio",
    "memory_ours", "memory_peer", "verified",
}  # fmt: skip


def cell(steps: tuple[str, ...], kind: str = "walk") -> Cell:
    return Cell("ints", kind, 0.5, 1, ("plain", "zram"), ("signal",), steps, 3, 64 << 20)


def run(step: str, us: float, **more: object) -> Run:
    made = Run(budget=32 << 20, pool=8 << 20, peak=31 << 20)
    made.steps[step] = {
        "seconds": us / 1e6,
        "cpu_seconds": us / 2e6,
        "accesses": 1,
        "latency_ns": {"p50": 1.0, "p99": 2.0, "p99_9": 3.0, "max": us},
    }
    for name, value in more.items():
        setattr(made, name, value)
    return made


def measured(step: str, plain: float, ours: list[float], theirs: list[float]) -> Measured:
    rounds = [
        {"plain": run(step, plain), "zram": run(step, b), "signal@zram": run(step, a)}
        for a, b in zip(ours, theirs, strict=True)
    ]
    return Measured(cell((step,), "jobs" if step.startswith("job:") else "walk"), rounds)


def test_rows_have_medians_and_the_spread_of_the_ratios_of_rounds() -> None:
    rows = rows_of(measured("seq_again", 1.0, [2.0, 4.0, 3.0], [20.0, 12.0, 30.0]))
    row = next(row for row in rows if row["peer"] == "zram")
    assert set(row) >= SCHEMA
    assert (row["ours_ns"], row["peer_ns"]) == (3000.0, 20000.0)
    assert row["ratio"] == pytest.approx(10.0)
    assert row["spread"] == pytest.approx([3.0, 10.0])
    assert row["cpu_ratio"] == pytest.approx(10.0)
    assert row["memory_peer"] == 40 << 20
    assert row["verified"] is True
    assert [row["peer"] for row in rows] == ["plain", "zram"]
    json.dumps(rows)


def test_a_jobs_ratio_is_told_raw_and_less_plain() -> None:
    rows = rows_of(measured("job:sort", 10.0, [12.0, 12.0, 12.0], [30.0, 20.0, 16.0]))
    row = next(row for row in rows if row["peer"] == "zram")
    assert row["ratio"] == pytest.approx(20 / 12)
    assert row["overhead_ratio"] == pytest.approx(5.0)
    assert next(row for row in rows if row["peer"] == "plain")["overhead_ratio"] is None


def test_a_difference_to_plain_memory_that_is_noise_counts_as_a_hundredth() -> None:
    row = rows_of(measured("job:sort", 10.0, [9.0], [20.0]))[1]
    assert row["overhead_ratio"] == pytest.approx(100.0)


def test_a_killed_peer_is_a_result_without_a_figure() -> None:
    told = measured("seq_again", 1.0, [2.0], [4.0])
    told.rounds[0]["zram"] = Run(ended="killed by the kernel", killed=3)
    rows = rows_of(told)
    row = rows[1]
    assert (row["peer_ns"], row["ratio"], row["spread"], row["verified"]) == (None, None, None, False)
    assert any("killed" in text and "3 times" in text for text in notes(rows))
    assert "ended" in as_markdown(sheets(rows)[1])


def test_the_first_table_is_the_geometric_mean_over_the_data_sets() -> None:
    one, two = measured("fill", 1.0, [1.0], [2.0]), measured("fill", 1.0, [1.0], [8.0])
    rows = rows_of(one) + [row | {"data": "heap"} for row in rows_of(two)]
    sheet = sheets(rows)[0]
    assert sheet.lines == [["fill", "1.00", "4.00"]]
    assert "ints, heap" in sheet.title
    assert geometric([None, 0.0]) is None


def test_the_best_kernel_variant_stands_beside() -> None:
    told = measured("fill", 1.0, [1.0], [8.0])
    told.rounds[0]["zram-thp"] = run("fill", 3.0)
    told.cell = Cell(**{name: getattr(told.cell, name) for name in Cell.__slots__} | {"peers": ("zram", "zram-thp")})
    assert sheets(rows_of(told))[0].lines == [["fill", "8.00", "3.00", "3.00"]]


def test_plots_are_made_of_ratios_only(tmp_path: Path) -> None:
    rows = rows_of(measured("fill", 1.0, [1.0], [8.0]))
    draw(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TmemError, match="no peer but plain"):
        draw([row for row in rows if row["peer"] == "plain"], tmp_path / "b.png")


def test_the_quick_set_is_two_data_sets_at_half_with_one_entry() -> None:
    cells = make_plan(Wishes(quick=True, nbytes=256 << 20))
    assert {one.data for one in cells} == {"flights", "ints"}
    assert {(one.residency, one.threads, one.entries, one.peers) for one in cells} == {
        (0.5, 1, ("signal",), ("plain", "zram"))
    }
    assert {step for one in cells for step in one.steps} == {*PATTERNS, *JOB_STEPS}


def test_the_full_set_has_every_peer_and_every_data_set_at_both_residencies() -> None:
    cells = make_plan(Wishes(quick=False, nbytes=512 << 20))
    assert {peer for one in cells for peer in one.peers} == set(peers.PEERS)
    for data in ("flights", "text", "heap", "floats", "cumsum", "ints", "random", "zeros"):
        assert {one.residency for one in cells if one.data == data and "zram" in one.peers} >= {0.5, 0.25}
    assert {one.threads for one in cells} == {1, 2}
    assert FITS in {one.residency for one in cells}


def test_what_is_chosen_is_all_that_is_measured() -> None:
    wishes = Wishes(
        quick=False, nbytes=16 << 20, data=("zeros",), steps=("fill", "job:sort"), peers=("blosc2",), threads=(1, 2)
    )
    assert [(one.kind, one.steps, one.peers) for one in make_plan(wishes)] == [("jobs", ("job:sort",), ("blosc2",))]


def test_of_two_rows_of_one_thing_the_first_stays() -> None:
    made = session.Session([], 1)
    made._add(rows_of(measured("fill", 1.0, [1.0], [2.0])))
    made._add(rows_of(measured("fill", 1.0, [1.0], [8.0])))
    assert [row["ratio"] for row in made.rows] == [1.0, 2.0]


def test_plain_memory_is_compared_at_the_residency_that_was_asked_for() -> None:
    jobs = make_plan(Wishes(quick=False, nbytes=16 << 20, steps=("job:sort",), peers=("plain", "blosc2")))[0]
    assert jobs.budgets() == ["limit", "blosc2"]
    assert cell(("fill",)).budgets() == ["zram"]
    assert make_plan(Wishes(quick=False, nbytes=16 << 20, peers=("plain",)))[0].budgets() == ["limit"]


def test_the_estimate_follows_what_was_measured() -> None:
    clock, one = Clock(), cell(PATTERNS)
    before = clock.seconds(one)
    clock.learn(one, "zram", 500.0)
    assert clock.seconds(one) > before + 1000


def test_what_the_machine_lacks_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "missing", lambda name, _size: ("no", "get it") if name == "zram" else ("", ""))
    made = session.Session([cell(("fill",))], 1)
    made.narrow()
    assert made.skipped == [{"what": "peer zram", "reason": "no", "remedy": "get it"}]
    assert [one.peers for one in made.cells] == [("plain",)]


def test_without_root_the_kernels_swap_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmem.bench.kernel.os.geteuid", lambda: 1000)
    assert peers.missing("zram", 1 << 20) == ("a memory cgroup and swap need root", "run it as root: sudo tmem bench")


def test_what_is_touched_is_said_before() -> None:
    said = " ".join(session.touched(make_plan(Wishes(quick=False, nbytes=16 << 20))))
    for word in ("cgroup", "zram", "swap file", "zswap", "page-cluster", "hugepages-64kB"):
        assert word in said
    assert session.touched([Cell("ints", "walk", 0.5, 1, ("plain",), ("signal",), ("fill",), 1, 4096)]) == []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_orders_visit_what_they_say(pattern: str) -> None:
    pages = 1000
    both = orders(pattern, pages, 7, 2)
    whole = np.concatenate(both)
    assert len(both) == 2
    assert whole.dtype == np.uint32
    assert whole.max() < pages
    assert np.array_equal(whole, np.concatenate(orders(pattern, pages, 7, 2)))
    if not pattern.startswith(("random", "zipf")):
        assert sorted(whole) == list(range(pages))
    assert mode(pattern) == ("fill" if pattern == "fill" else "write" if pattern.endswith("write") else "read")


def test_zipf_wants_the_first_as_often_as_it_should() -> None:
    counts = np.sort(np.bincount(orders("zipf_read", 4096, 3, 1)[0], minlength=4096))[::-1]
    harmonic = (1.0 / np.arange(1, 4097) ** 0.99).sum()
    assert counts[0] / counts.sum() == pytest.approx(1 / harmonic, rel=0.25)
    assert counts[:8].sum() / counts.sum() == pytest.approx((1.0 / np.arange(1, 9) ** 0.99).sum() / harmonic, rel=0.15)


def test_the_journal_undoes_newest_first_and_survives_its_process(tmp_path: Path) -> None:
    setting = tmp_path / "setting"
    setting.write_text("always [madvise] never\n")
    changes = undo.Changes(tmp_path)
    changes.set(setting, "never")
    assert setting.read_text() == "never"
    journal = next(tmp_path.glob("tmem-bench-*.json"))
    assert undo.leftovers(tmp_path) == []  # its process is alive
    said = json.loads(journal.read_text())
    journal.rename(tmp_path / "tmem-bench-1.json")
    (tmp_path / "tmem-bench-1.json").write_text(json.dumps(said | {"started": "never"}))
    assert undo.recover(tmp_path) == [f"write {setting} madvise"]
    assert setting.read_text() == "madvise"
    assert list(tmp_path.glob("*.json")) == []


def test_undoing_goes_on_after_a_failure_and_names_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("a")
    second.write_text("b")
    changes = undo.Changes(tmp_path)
    changes.set(first, "x")
    changes.set(second, "y")
    second.unlink()
    second.mkdir()
    with pytest.raises(TmemError, match="second"):
        changes.undo()
    assert first.read_text() == "a"
    assert list(tmp_path.glob("*.json"))  # the next start tries again
    second.rmdir()
    changes.undo()
    assert second.read_text() == "b"


def test_steps_nobody_can_undo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no way to undo"):
        undo.Changes(tmp_path).will("explode", "all")


def test_names_of_the_plan_are_those_of_the_peers() -> None:
    assert set(plan._VARIANTS) | set(plan._FILES) <= set(peers.PEERS)


def test_a_signal_waits_until_all_is_undone() -> None:
    done = []

    def interrupted() -> None:
        with undo.uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [1]
