# SPDX-License-Identifier: Apache-2.0
"""`tmem top`: its numbers, its bars, and its screen under the keys of a user."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.host.operatorserver import MIB, OperatorServer, guest, record
from tmem.operator import GuestRow, HostRow, Overview, overview_of
from tmem.top.feed import Feed
from tmem.top.looks import Scale, bar, columns_for, detail_lines, host_lines, short_count, short_size
from tmem.top.model import SORTS, Reading, Row, chosen, view_of

pytest.importorskip("textual")

from textual.pilot import Pilot
from textual.widgets import DataTable, Footer, Input, Static

from tmem.top.app import TopApp
from tmem.top.screens import EndScreen, HelpScreen

# The numbers


def _reading(when: float, since: float = 1.0, **of_guest: Any) -> Reading:
    row = GuestRow(**({"id": 1, "pid": 7, "faults_s": 9.0, "stall": 0.5} | of_guest))
    counters = {"granted": int(when * 10), "refused": {"host-full": int(when)}, "revoked": 4}
    return Reading(when, Overview(host=HostRow(since=since, counters=counters), guests=(row,)))


def test_the_first_reading_has_the_daemons_rates() -> None:
    view = view_of(_reading(10.0, faults=100))
    assert (view.rows[0].faults_s, view.rows[0].stall) == (9.0, 0.5)
    assert view.rates.granted_s is None


def test_rates_are_of_the_time_between_two_readings() -> None:
    before = _reading(10.0, faults=100, fault_ns=0, refused={"host-full": 1})
    now = _reading(14.0, faults=500, fault_ns=6 * 10**9, refused={"host-full": 2, "over-cap": 9})
    view = view_of(now, before)
    assert (view.rows[0].faults_s, view.rows[0].stall, view.rows[0].refused_s) == (100.0, 1.5, 2.5)
    soon = view_of(_reading(12.0, faults=500, refused={"host-full": 2}), before).rows[0]
    assert (soon.faults_s, soon.stall, soon.refused_s) == (9.0, 0.5, 0.5)  # guests report once a second
    assert (view.rates.granted_s, view.rates.refused_s, view.rates.revoked_s) == (10.0, 1.0, 0.0)
    assert view.rows[0].rated().faults_s == 100.0


@pytest.mark.parametrize(
    "before", [_reading(10.0, pid=8), _reading(10.0, id=2), _reading(10.0, since=2.0), _reading(14.0)]
)
def test_no_rate_is_of_two_guests_or_two_daemons_or_no_time(before: Reading) -> None:
    assert view_of(_reading(14.0, faults=10**6), before).rows[0].faults_s == 9.0


def test_a_counter_that_went_back_is_no_negative_rate() -> None:
    view = view_of(_reading(14.0, faults=1), _reading(11.0, faults=5, refused={"x": 3}))
    assert (view.rows[0].faults_s, view.rows[0].refused_s) == (0.0, 0.0)


def test_the_feed_compares_with_a_reading_that_is_old_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(at) for at in range(100))
    monkeypatch.setattr("tmem.top.feed.time.monotonic", lambda: next(clock))
    with OperatorServer(tmp_path / "t.sock") as server:

        def grow(known: dict[str, Any]) -> None:
            known["guests"][0]["faults"] += 70
            known["host"]["counters"]["granted"] += 10

        server.grow = grow
        feed = Feed(str(server.path))
        rates = [(view.rows[0].faults_s, view.rates.granted_s) for view in (feed.read() for _ in range(8))]
        feed.close()
    assert rates[:3] == [(5200.0, None), (5200.0, 10.0), (5200.0, 10.0)]
    assert rates[3:] == [(70.0, 10.0)] * 5


def _rows() -> list[Row]:
    return [Row(one, one.faults_s, one.stall) for one in overview_of(record()).guests]


@pytest.mark.parametrize(
    ("sort", "turned", "ids"),
    [("lease", False, [3, 4, 11]), ("lease", True, [11, 4, 3]), ("name", False, [11, 3, 4]),
     ("user", False, [3, 11, 4]), ("stall", False, [3, 4, 11]), ("pid", True, [11, 4, 3]),
     ("refused", False, [3, 4, 11])],
)  # fmt: skip
def test_orders(sort: str, turned: bool, ids: list[int]) -> None:  # noqa: FBT001 - pytest gives it
    assert [row.guest.id for row in chosen(_rows(), sort, turned=turned)] == ids


@pytest.mark.parametrize(
    ("words", "ids"),
    [("", [3, 4, 11]), ("TRA", [3]), ("alice", [3, 11]), ("alice bat", [11]), ("pid:4004", [4]), ("frozen", [4]),
     ("ballooned", [11]), ("user.slice", [3, 4, 11]), ("nobody", [])],
)  # fmt: skip
def test_filters(words: str, ids: list[int]) -> None:
    assert [row.guest.id for row in chosen(_rows(), "pid", words)] == ids


# The looks


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (1024, "1K"), (512 * MIB, "512M"), (1536 * MIB, "1.5G"),
     (100 * 1024 * MIB, "100G"), (999 * MIB, "999M"), (1023 * MIB, "1.0G"), (99.7 * MIB, "100M"), (3 << 60, "3072P")],
)  # fmt: skip
def test_short_sizes(size: float, text: str) -> None:
    assert short_size(size) == text
    assert len(text) <= 5


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (0.25, "0.2"), (7, "7"), (999, "999"), (1000, "1.0k"), (12345, "12k"), (999_900, "1.0m"), (5e9, "5g")],
)
def test_short_counts(count: float, text: str) -> None:
    assert short_count(count) == text


def test_bars_fill_and_lose_no_part() -> None:
    assert bar((("a", 50), ("b", 25)), 100, 8).plain == "aaaabb··"
    assert bar((("a", 1), ("b", 1)), 1000, 4).plain == "ab··"
    assert bar((("a", 100), ("b", 1)), 100, 4).plain == "aaaa"
    assert bar((("a", 5),), 0, 4).plain == "a···"
    assert bar((), 0, 3).plain == "···"
    assert bar((("a", 100),), 100, 4, (("|", 50), ("]", 100), ("x", 101))).plain == "aa|]"


@pytest.mark.parametrize("width", range(79, 260, 7))
def test_columns_fill_the_width_and_show_what_fits(width: int) -> None:
    columns = columns_for(width)
    assert sum(column.width + 1 for column in columns) <= width + 1
    assert {"name", "pid", "user", "memory", "bar", "lease", "faults", "stall"} <= {column.key for column in columns}
    row = Row(overview_of({"guests": [guest(1, "名前" * 30, user="x" * 40, pid=4194304)]}).guests[0])
    for column in columns:
        for text in (column.cell(row, Scale(1, 1)), column.title("lease", turned=True)):
            assert cell_len(text.plain) in {column.width, column.width + 1}
    if width >= 140:
        assert len(columns) == 17


def test_lines_have_the_width_given() -> None:
    known = record()
    known["host"] |= {"reserved_bytes": 300 * MIB, "free_bytes": 84 * MIB}
    view = view_of(Reading(1.0, overview_of(known)))
    bars, legend = host_lines(view, 78, "by lease")[1:3]
    assert bars.plain == f"host [{'█' * 34}{'▒' * 8}{'░' * 20}{'·' * 6}] 1G"
    assert "█ kept 512M   ▒ freeable 128M   ░ awaited 300M   · free 84M" in legend.plain
    for width in (78, 138):
        assert max(line.cell_len for line in host_lines(view, width, "by lease")) <= width
        for row in view.rows:
            assert max(line.cell_len for line in detail_lines(row, width)) <= width


# The screen


@contextlib.asynccontextmanager
async def _top(server: OperatorServer, size: tuple[int, int] = (80, 24)) -> AsyncIterator[tuple[TopApp, Pilot[None]]]:
    app = TopApp(Feed(str(server.path)), interval=0.15)
    async with app.run_test(size=size) as pilot:
        await _until(pilot, lambda: _table(app).row_count > 0)
        yield app, pilot


async def _until(pilot: Pilot[None], true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if true():
            return
        await pilot.pause(0.02)
    pytest.fail(f"never so: {pilot.app.export_screenshot()}")


def _table(app: TopApp) -> DataTable[Any]:
    return app.screen_stack[0].query_one("#guests", DataTable)


def _names(app: TopApp) -> list[str]:
    table = _table(app)
    return [table.get_row_at(at)[1].plain.strip() for at in range(table.row_count)]


def _text(app: TopApp, which: str) -> str:
    return str(app.screen_stack[0].query_one(which, Static).content)


def _verbs(server: OperatorServer) -> list[object]:
    return [asked for asked in server.asked if asked[0] != "list"]


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with OperatorServer(tmp_path / "t.sock") as made:
        yield made


def test_it_shows_host_guests_and_the_one_selected(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            assert _names(app) == ["train", "web", "batch"]
            assert "policy weighted  3 guests" in _text(app, "#host")
            assert "host-full 3, over-cap 1" in _text(app, "#detail")
            assert [_table(app).get_row_at(at)[0].plain for at in range(3)] == [" ", "F", "B"]
            assert _table(app).virtual_size.width <= 80
            await pilot.press("down")
            await _until(pilot, lambda: "web" in _text(app, "#detail") and "FROZEN" in _text(app, "#detail"))
            assert app.screen.query_one(Footer).region.height == 1
            await pilot.press("q")
        assert app.return_code == 0

    asyncio.run(look())


def test_rows_are_kept_up_to_date_and_the_selection_follows_its_guest(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            await pilot.press("down")
            server.known["guests"][2]["persistent_bytes"] = 600 * MIB
            await _until(pilot, lambda: _names(app) == ["batch", "train", "web"])
            await _until(pilot, lambda: "web" in _text(app, "#detail"))
            assert _table(app).cursor_row == 2
            del server.known["guests"][1]
            await _until(pilot, lambda: _names(app) == ["batch", "train"])
            await _until(pilot, lambda: "train" in _text(app, "#detail"))
            server.known["guests"].clear()
            await _until(pilot, lambda: "No guest is here" in _text(app, "#detail"))

    asyncio.run(look())


def test_s_goes_through_the_orders_and_turns_them(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            for sort in [*list(SORTS)[1:], "lease"]:
                await pilot.press("s")
                assert f"by {sort} ▼" in _text(app, "#host")
                assert len(_names(app)) == 3
            await pilot.press("S")
            assert _names(app) == ["batch", "web", "train"]
            assert "by lease ▲" in _text(app, "#host")
            await pilot.click("#guests", offset=(4, 0))
            await _until(pilot, lambda: "by name ▼" in _text(app, "#host"))
            assert _names(app) == ["batch", "train", "web"]

    asyncio.run(look())


def test_the_filter_shows_as_it_is_typed_and_letters_are_letters(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            await pilot.press("slash", "t", "f", "k", "s", "question_mark")
            assert app.query_one("#filter", Input).value == "tfks?"
            assert "No guest has 'tfks?'" in _text(app, "#detail")
            assert _verbs(server) == []
            await pilot.press("escape")
            await _until(pilot, lambda: len(_names(app)) == 3)
            await pilot.press("slash", *"alice", "enter")
            await _until(pilot, lambda: _names(app) == ["train", "batch"])
            assert "only 'alice'" in _text(app, "#host")
            assert _table(app).has_focus
            await pilot.press("escape")
            await _until(pilot, lambda: len(_names(app)) == 3)

    asyncio.run(look())


def test_freeze_and_thaw_the_guest_that_is_selected(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            await pilot.press("f")
            await _until(pilot, lambda: "guest 3 is frozen" in _text(app, "#said"))
            await _until(pilot, lambda: _table(app).get_row_at(0)[0].plain == "F")
            await pilot.press("t")
            await _until(pilot, lambda: _table(app).get_row_at(0)[0].plain == " ")
            assert _verbs(server) == [("freeze", {"guest": "3"}), ("thaw", {"guest": "3"})]

    asyncio.run(look())


def test_k_asks_says_what_it_does_and_ends_the_guest(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            for no in ("escape", "n", "enter", "q"):
                await pilot.press("k")
                assert isinstance(app.screen, EndScreen)
                said = str(app.screen.query_one(Static).content)
                assert "train (guest 3, pid 4003, alice)" in said
                assert "stops with a report" in said
                await pilot.press(no)
                assert not isinstance(app.screen, EndScreen)
            assert _verbs(server) == []
            await pilot.press("k", "y")
            await _until(pilot, lambda: _names(app) == ["web", "batch"])
            assert _verbs(server) == [("destroy", {"guest": "3", "force": True})]
            assert "guest 3 is ended" in _text(app, "#said")

    asyncio.run(look())


def test_what_the_daemon_does_not_do_is_told(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            await pilot.press("k")
            server.known["guests"].clear()
            await pilot.press("y")
            await _until(pilot, lambda: "not done: no guest is '3'" in _text(app, "#said"))

    asyncio.run(look())


def test_help_tells_each_key(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            await pilot.press("question_mark")
            assert isinstance(app.screen, HelpScreen)
            window = app.screen.query_one(".window")
            assert window.max_scroll_y == 0  # all of it is seen at 80x24
            said = str(app.screen.query_one(Static).content)
            assert all(word in said for word in ("freeze", "thaw", "order", "quit", "share", "swap"))
            await pilot.press("escape")
            assert not isinstance(app.screen, HelpScreen)

    asyncio.run(look())


def test_a_daemon_that_goes_away_is_told_and_found_again(server: OperatorServer) -> None:
    async def look() -> None:
        async with _top(server) as (app, pilot):
            server.stop()
            await _until(pilot, lambda: "AWAY" in _text(app, "#host"))
            assert "What is below is old" in _text(app, "#host")
            assert _names(app) == ["train", "web", "batch"]
            assert _table(app).has_class("old")
            await pilot.press("f", "k")
            assert "the daemon is away" in _text(app, "#said")
            assert _verbs(server) == []
            server.start()
            await _until(pilot, lambda: "policy weighted" in _text(app, "#host"))
            assert not _table(app).has_class("old")

    asyncio.run(look())


def test_it_starts_without_a_daemon(tmp_path: Path) -> None:
    async def look() -> None:
        server = OperatorServer(tmp_path / "t.sock")
        app = TopApp(Feed(str(server.path)), interval=0.15)
        async with app.run_test(size=(80, 24)) as pilot:
            await _until(pilot, lambda: "AWAY" in _text(app, "#host"))
            assert "No guest is known" in _text(app, "#detail")
            with server:
                await _until(pilot, lambda: len(_names(app)) == 3)

    asyncio.run(look())


def test_q_waits_for_no_daemon_that_is_silent(tmp_path: Path) -> None:
    async def look() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.bind(str(tmp_path / "t.sock.admin"))
            silent.listen()
            async with TopApp(Feed(str(tmp_path / "t.sock"))).run_test(size=(80, 24)) as pilot:
                await pilot.pause(0.2)
                await pilot.press("q")

    begun = time.monotonic()
    asyncio.run(look())
    assert time.monotonic() - begun < 4  # an answer is waited for longer


@pytest.mark.parametrize("size", [(140, 40), (80, 24), (20, 5)])
def test_it_fits_and_follows_the_terminals_size(server: OperatorServer, size: tuple[int, int]) -> None:
    async def look() -> None:
        server.known["guests"] += [guest(20 + at, f"more-{at}") for at in range(30)]
        async with _top(server, size) as (app, pilot):
            wide = len(_table(app).columns)
            assert wide == (17 if size[0] == 140 else 9)
            await pilot.resize_terminal(200, 50)
            await _until(pilot, lambda: len(_table(app).columns) == 17)
            await pilot.press("end")
            await _until(pilot, lambda: _table(app).cursor_row == 32)

    asyncio.run(look())
