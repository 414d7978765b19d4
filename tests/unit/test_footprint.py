# SPDX-License-Identifier: Apache-2.0
"""What `tmem bench --footprint` counts and tells, with measurements that are made up: nothing is stored here."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmem.bench import cold, footprint, footrows
from tmem.bench.data import Source
from tmem.bench.footplot import draw_footprint
from tmem.bench.footprint import FAULTS, Footprint, budget, pressed
from tmem.bench.footrows import HASH, STATES, each, footprint_row, p99_ratio, run_name
from tmem.bench.foottables import bytes_sheet, faults_sheet, footprint_notes, footprint_sheets, limits_sheet
from tmem.bench.measure import Run
from tmem.bench.places import Paged
from tmem.bench.tables import as_markdown
from tmem.bench.walk import PAGE
from tmem.bench.zramstore import ENTRY, ZramBytes, entry_of, mm_stat
from tmem.cli.main import main
from tmem.memory import MINIMUM_RAM
from tools import performance
from tools.performance import footprint as shown

PAGES = 1000
EMPTY = 65536


def ours(warm: int, cold_bytes: int, p99: float, *, same: int = 0, swapped: int = 0) -> Run:
    """Return a run whose store takes so many bytes for each of its pages, the hash aside."""
    held = PAGES - swapped
    new = {"store_bytes": EMPTY, "store_pages": 0, "store_same": 0, "store_data": 0, "metadata": 4096, "swap_used": 0}
    filled = new | {"metadata": 4096 + 40 * PAGES}
    out = filled | {"store_pages": held, "store_same": same, "swap_used": swapped * PAGE, "store_data": held * 100}
    run = Run()
    run.steps = {
        "new": new,
        "filled": filled,
        "warm": out | {"store_bytes": EMPTY + warm * held},
        "cold": out | {"store_bytes": EMPTY + cold_bytes * held, "waited": 1.5},
        "faults": faults(p99),
    }
    return run


def faults(p99: float) -> dict[str, Any]:
    return {"waited": 900, "latency_ns": {"p50": p99 / 2, "p99": p99, "p99_9": p99, "max": p99}}


def peer(p99: float) -> Run:
    return Run(steps={"faults": faults(p99)})


def store(bytes_each: int, same: int = 0) -> ZramBytes:
    return ZramBytes(PAGES, (bytes_each - ENTRY) * PAGES, 100 * PAGES, same, ENTRY * PAGES, entry_measured=True)


def row(data: str = "heap", mine: tuple[Run, ...] = (), zram: int = 1000, zram_p99: float = 10e3) -> dict[str, Any]:
    rounds = []
    for run in mine or (ours(1000, 700, 9e3), ours(1000, 704, 8e3), ours(1000, 708, 11e3)):
        rounds.append({run_name("ours", state): run for state in STATES})
        rounds[-1] |= {run_name("lz4", state): peer(zram_p99) for state in STATES}
    return footprint_row(data, PAGES * PAGE, rounds, {"lz4": store(zram)})


def held(made: dict[str, Any]) -> dict[str, bool | None]:
    return {said["what"]: said["held"] for said in made["verdicts"]}


def test_a_pages_bytes_are_the_stores_and_the_hash_without_what_an_empty_store_takes() -> None:
    assert each(ours(1000, 700, 1.0), "warm") == 1000 + HASH
    assert each(ours(1000, 700, 1.0), "cold") == 700 + HASH
    assert each(ours(1000, 700, 1.0, same=PAGES), "cold") == 700  # nothing is hashed that has no data
    assert each(Run(), "cold") is None


def test_pages_on_the_swap_device_count_whole_with_the_devices_tables() -> None:
    run = ours(0, 0, 1.0, swapped=PAGES)
    run.steps["cold"]["metadata"] += 12 * PAGES
    assert each(run, "cold") == PAGE + 12 + HASH


def test_a_row_has_medians_spreads_and_ratios() -> None:
    made = row()
    assert (made["warm_bytes"], made["cold_bytes"], made["cold_spread"]) == (1016, 720, [716, 724])
    assert (made["ratio_lz4"], made["warm_ratio_lz4"]) == (0.72, 1.016)
    assert (made["beside_bytes"], made["pager_bytes"], made["empty_bytes"]) == (620, 40, EMPTY)
    assert made["ours"]["pressed"] == {
        "faults": 900, "p50_ns": 4.5e3, "p50_spread": [4e3, 5.5e3], "p99_ns": 9e3, "p99_spread": [8e3, 11e3]
    }  # fmt: skip
    assert p99_ratio(made, "roomy") == pytest.approx(0.9)
    assert made["verified"] is True
    assert all(held(made).values())
    json.dumps(made)


@pytest.mark.parametrize(
    ("data", "cold_bytes", "zram", "limit", "is_held"),
    [
        ("heap", 734, 1000, 0.75, True),
        ("flights", 735, 1000, 0.75, False),
        ("text", 884, 1000, 0.9, True),
        ("text", 885, 1000, 0.9, False),
        ("cumsum", 3300, 4112, 0.9, True),  # ours compresses what zram does not
        ("random", 4096, 4112, 1.02, True),
        ("random", 4200, 4112, 1.02, False),
    ],
)
def test_each_data_set_has_its_limit(data: str, cold_bytes: int, zram: int, limit: float, *, is_held: bool) -> None:
    said = row(data, (ours(cold_bytes, cold_bytes, 1.0),), zram)["verdicts"][0]
    assert (said["limit"], said["held"]) == (limit, is_held)


@pytest.mark.parametrize(("bytes_each", "is_held"), [(16, True), (17, False)])
def test_same_filled_pages_have_a_limit_in_bytes(bytes_each: int, *, is_held: bool) -> None:
    made = row("zeros", (ours(bytes_each, bytes_each, 1.0, same=PAGES),), 16)
    assert held(made)["bytes of a same-filled page"] is is_held
    assert held(made)["bytes cold / zram lz4"] is is_held


def test_a_slower_fault_and_a_warm_page_that_is_too_large_are_told() -> None:
    made = row(mine=(ours(1010, 700, 20e3),))
    assert held(made) == {
        "bytes cold / zram lz4": True,
        "bytes warm / zram lz4": False,
        "p99 of a cold fault / zram lz4, with room": False,
        "p99 of a cold fault / zram lz4, a quarter resident": False,
    }


def test_without_zram_ours_is_told_and_nothing_is_held() -> None:
    run = ours(1000, 700, 9e3)
    made = footprint_row("text", PAGES * PAGE, [{run_name("ours", state): run for state in STATES}], {})
    assert made["cold_bytes"] == 716
    assert set(held(made).values()) == {None}
    assert bytes_sheet([made]).lines[0][4:9] == ["1016", "716", "616", "-", "-"]
    fault = dict(zip(faults_sheet([made]).headings, faults_sheet([made]).lines[0], strict=True))
    assert (fault[">ours p99"], fault[">zram lz4 p99"]) == ("9.00 (9.00-9.00)", "-")
    assert (fault[">zram, faults"], fault[">p99 ours / zram"]) == ("-", "-")
    assert {line[-1] for line in limits_sheet([made]).lines} == {"not measured"}


def test_a_process_that_the_kernel_killed_is_told_and_has_no_figure() -> None:
    rounds = [{run_name("ours", state): ours(1000, 700, 9e3) for state in STATES}]
    rounds[0] |= {run_name("lz4", state): Run(ended="killed by the kernel", killed=6) for state in STATES}
    made = footprint_row("text", PAGES * PAGE, rounds, {"lz4": store(1000)})
    assert made["verified"] is False
    assert held(made)["p99 of a cold fault / zram lz4, with room"] is None
    assert any("killed by the kernel" in text and "12 times" in text for text in footprint_notes([made]))


def test_tables_and_the_page_show_the_same_figures() -> None:
    made = row()
    text = "\n".join(as_markdown(sheet) for sheet in footprint_sheets([made]))
    for figure in ("0.720", "| 720 |", "| held |", "9.00 (8.00-11.0)"):
        assert figure in text
    assert footprint_sheets([]) == []
    page = shown.tables([made], ("heap", "text"), performance.table)
    assert "| heap | 1016 | 720 | 1000 | - | 0.720 | 0.75 | held |" in page
    assert "| heap | 4.50 | 5.00 | 9.00 | 10.0 | 0.90 |" in page
    assert "| text | - | - | - | - | - | - | - |" in page
    assert shown.read(Path("none/here")) == []


def test_a_picture_is_made_with_and_without_zram(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = row()
    draw_footprint([made, row("text") | {"peers": {}}], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_zrams_table_is_what_the_kernel_took_for_it() -> None:
    assert entry_of(16 * PAGES + 96, PAGES) == 16
    assert entry_of(24 * PAGES, PAGES) == 24
    assert [entry_of(grown, PAGES) for grown in (0, -16 * PAGES, 96 * PAGES)] == [0, 0, 0]
    said = mm_stat(" 4096 0 8192 0 8192 1 0 0 0\n")
    assert (said["mem_used_total"], said["compr_data_size"], said["same_pages"]) == (8192, 0, 1)
    assert ZramBytes(10, 800, 700, 0, 160, entry_measured=True).each == 96


def test_cold_pages_are_touched_once_each_in_an_order_of_the_seed() -> None:
    absent = np.arange(10 * FAULTS) % 2 == 1
    order = cold.cold_order(absent, FAULTS, 3)
    assert order.dtype == np.uint32
    assert len(np.unique(order)) == FAULTS
    assert (order % 2 == 1).all()
    assert np.array_equal(order, cold.cold_order(absent, FAULTS, 3))
    assert sorted(cold.cold_order(absent[:100], FAULTS, 3)) == list(range(1, 100, 2))


def test_a_page_is_absent_until_it_is_touched() -> None:
    memory = np.frombuffer(mmap.mmap(-1, 8 * PAGE), np.uint8)
    memory[3 * PAGE] = 1
    assert cold.absent_pages(memory).tolist() == [page != 3 for page in range(8)]


def test_a_pressed_budget_is_what_zram_had_and_never_below_the_least() -> None:
    nbytes = 64 << 20
    pages = nbytes // PAGE
    assert pressed(nbytes, {}, store(1000)) == nbytes // 4 + pages * 3 // 4 * 1000
    mine = {run_name("ours", "roomy"): ours(1000, 700, 1.0)}
    assert pressed(nbytes, mine, None) == nbytes // 4 + pages * 3 // 4 * 716
    assert pressed(1 << 20, mine, None) == MINIMUM_RAM
    assert budget(nbytes) * 3 // 5 > nbytes


class Shrinking:
    """A Memory whose store shrinks at each look, three times."""

    def __init__(self) -> None:
        self.looks, self.settled = 0, False

    def stats(self) -> Any:
        self.looks += 1
        return type("Stats", (), {"store_bytes": max(0, 3 - self.looks)})

    def settle(self) -> None:
        self.settled = True


def test_a_memory_is_cold_when_it_was_settled_and_has_stopped_to_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "_STILL", 0.01)
    monkeypatch.setattr(cold, "_LOOK", 0.0)
    place = object.__new__(Paged)
    memory = Shrinking()
    place.memory = memory  # type: ignore[assignment]
    assert cold.settle(place) < cold._LONGEST
    assert memory.looks > 3
    assert memory.settled


def test_what_zram_lacks_is_skipped_and_ours_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "entry_missing", lambda _entry: ("", ""))
    monkeypatch.setattr("tmem.bench.kernel.os.geteuid", lambda: 1000)
    made = Footprint(("ints",), 16 << 20, 1, 1)
    made.narrow()
    assert (made.data, made.peers, made.touched()) == (("ints",), (), [])
    assert made.skipped == [
        {
            "what": "peer zram",
            "reason": "a memory cgroup and swap need root",
            "remedy": "run it as root: sudo tmem bench",
        }
    ]


def test_data_sets_that_no_longer_fit_into_the_time_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(_self: Footprint, source: Source, *_: object) -> dict[str, Any]:
        return {"data": source.name}

    monkeypatch.setattr(Footprint, "_measured", measured)
    made = Footprint(("ints", "zeros"), 1 << 20, 1, 1)
    made.run(lambda _text: None, -1.0)
    assert [skip["what"] for skip in made.skipped] == ["data ints", "data zeros"]
    assert made.rows == []
    made.run(lambda _text: None, 60.0)
    assert [made_row["data"] for made_row in made.rows] == ["ints", "zeros"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--footprint", "--patterns", "fill"], "--footprint measures no --patterns"),
        (["--footprint", "--json", "none/here"], "no such directory"),
        (["--check"], "--check holds limits of --footprint"),
    ],
)
def test_what_does_not_go_together_or_cannot_be_written_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 125
    told = capsys.readouterr().err
    assert said in told
    assert "data sets" not in told


def test_the_hash_is_as_large_as_the_pagers() -> None:
    text = Path(footrows.__file__).parents[3] / "crates/tmem-pager/src/state.rs"
    assert "pub hash: [u64; 2]," in text.read_text(encoding="utf-8")
    assert 2 * np.dtype(np.uint64).itemsize == HASH
    assert mmap.PAGESIZE == PAGE
