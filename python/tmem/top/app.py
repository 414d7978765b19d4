# SPDX-License-Identifier: Apache-2.0
"""The textual program of `tmem top`: one screen, a reading a second, htop's keys.

Owns: the screen, the selection, the order and the filter. Called by cli.top. Calls model, looks and feed: that in a
thread of its own, so that a daemon that is slow stops no key.
Law: numbers of a daemon that is away are marked as old, and nothing can be done to a guest then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static

from tmem.errors import TmemError
from tmem.operator import HostAwayError
from tmem.top.feed import Feed
from tmem.top.looks import Scale, columns_for, detail_lines, host_lines
from tmem.top.model import SORTS, Row, View, chosen
from tmem.top.screens import EndScreen, HelpScreen

__all__ = ["TopApp"]

_CSS = """
#host { height: 4; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
#host.away { text-wrap: wrap; }
#guests { height: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
#guests > .datatable--cursor { background: $primary-darken-3; text-style: bold; }
#guests.old { opacity: 60%; }
#detail { height: 6; padding: 0 1; border-top: solid $primary; text-wrap: nowrap; text-overflow: ellipsis; }
#said { height: 1; padding: 0 1; display: none; }
#said.shown { display: block; }
#filter { height: 1; border: none; padding: 0 1; display: none; }
#filter.shown { display: block; }
HelpScreen, EndScreen { align: center middle; }
.window { width: 80; max-width: 100%; height: auto; max-height: 100%; border: round $primary; padding: 0 1;
  scrollbar-size-vertical: 1; }
"""
_SECONDS_SAID = 6.0
_SIDES = 2
_VERBS = {"help", "sort", "turn", "filter", "freeze", "thaw", "end"}
_SCROLLBAR = 1


class Guests(DataTable[Text]):
    """The table; home and end go to the first and the last guest, as everywhere."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", "First", show=False),
        Binding("end", "scroll_bottom", "Last", show=False),
    ]


class TopApp(App[None]):
    """What `tmem top` shows."""

    CSS = _CSS
    TITLE = "tmem top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "Quit", key_display="q"),
        Binding("question_mark,h,f1", "help", "Help", key_display="?"),
        Binding("s,f6", "sort", "Sort", key_display="s"),
        Binding("S,r", "turn", "Turn", key_display="S", show=False),
        Binding("slash,f4", "filter", "Filter", key_display="/"),
        Binding("f", "freeze", "Freeze"),
        Binding("t", "thaw", "Thaw"),
        Binding("k,f9", "end", "End guest", key_display="k"),
        Binding("escape", "all", "Show all", key_display="esc"),
    ]

    def __init__(self, feed: Feed, interval: float = 1.0, sort: str = "lease") -> None:
        super().__init__()
        self._feed = feed
        self._interval = interval
        self._asking = False
        self._view = View()
        self._away = ""  # why there are no new numbers
        self._shown: list[Row] = []
        self._sort, self._turned, self._words = sort, False, ""
        self._laid_out: tuple[int, str, bool] | None = None  # what the columns were made for
        self._order: list[int] = []  # the guests of the table's rows
        self._saying = 0

    def compose(self) -> ComposeResult:
        """Host, guests, the one selected, what was done, keys."""
        yield Static(id="host")
        yield Guests(id="guests", cursor_type="row", cell_padding=0, cursor_foreground_priority="renderable")
        yield Static(id="detail")
        yield Static(id="said", markup=False)
        yield Input(id="filter", placeholder="words of a name, user, pid:N, frozen ...", compact=True)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin to ask."""
        self._guests.focus()
        self.tick()
        self.set_interval(self._interval, self.tick)

    def on_unmount(self) -> None:
        """Hang up, also where an answer is waited for."""
        self._feed.close()

    def on_resize(self, _event: events.Resize) -> None:
        """Show what the new width has room for."""
        self.call_after_refresh(self._draw)

    @property
    def _is_there(self) -> bool:
        """Whether there is a screen: messages and timers come also while it is taken down."""
        return self.is_running and bool(self.screen_stack)

    @property
    def _guests(self) -> Guests:
        return self.screen_stack[0].query_one(Guests)

    @work(group="tick")
    async def tick(self) -> None:
        """Ask for new numbers, unless the last question is not answered yet."""
        if self._asking:
            return
        self._asking = True
        try:
            self._view = await asyncio.to_thread(self._feed.read)
            self._away = ""
        except TmemError as error:
            self._away = str(error)
        finally:
            self._asking = False
        self._draw()

    def _draw(self) -> None:
        """Show what is known."""
        if not self._is_there:
            return
        self._shown = chosen(self._view.rows, self._sort, self._words, turned=self._turned)
        width = self.size.width
        root = self.screen_stack[0]
        order = f"by {self._sort} {'▲' if self._turned else '▼'}" + (f"  only {self._words!r}" if self._words else "")
        lines = host_lines(self._view, width - _SIDES, order)
        if self._away:
            again = f"{self._away}. What is below is old. Asked again every {self._interval:g} s."
            lines = [Text.assemble(("AWAY", "bold reverse"), f" {again}")]
        above = root.query_one("#host", Static)
        above.set_class(bool(self._away), "away")
        above.update(Text("\n").join(lines))
        table = self._guests
        table.set_class(bool(self._away), "old")
        self._fill(table, width)
        self._draw_detail()

    def _fill(self, table: Guests, width: int) -> None:
        """Bring the table up to date: cell by cell where the rows are the same, else anew around the selection."""
        columns = columns_for(width - _SCROLLBAR)
        scale = Scale.of(self._shown, self._view.host.capacity)
        layout = (width, self._sort, self._turned)
        sorted_anew = self._laid_out is not None and layout[1:] != self._laid_out[1:]
        order = [row.guest.id for row in self._shown]
        cells = [[column.cell(row, scale) for column in columns] for row in self._shown]
        if layout == self._laid_out and order == self._order:
            for at, line in enumerate(cells):
                for column, cell in zip(columns, line, strict=True):
                    if table.get_cell(str(order[at]), column.key) != cell:
                        table.update_cell(str(order[at]), column.key, cell)
            return
        selected, line_at, scrolled = self._selected_id(), table.cursor_row, table.scroll_y
        table.clear(columns=layout != self._laid_out)
        if layout != self._laid_out:
            for column in columns:
                title = column.title(self._sort, turned=self._turned)
                gap = 0 if column is columns[-1] else 1
                table.add_column(title, width=column.width + gap, key=column.key)
        for number, line in zip(order, cells, strict=True):
            table.add_row(*line, key=str(number))
        self._laid_out, self._order = layout, order
        if sorted_anew:
            table.move_cursor(row=0, animate=False)
        elif order:
            at = order.index(selected) if selected in order else min(line_at, len(order) - 1)
            table.move_cursor(row=at, animate=False)
            table.scroll_to(y=scrolled, animate=False)

    def _selected_id(self) -> int | None:
        at = self._guests.cursor_row
        return self._order[at] if 0 <= at < len(self._order) else None

    def _selected(self) -> Row | None:
        number = self._selected_id()
        return next((row for row in self._shown if row.guest.id == number), None)

    def _draw_detail(self) -> None:
        if not self._is_there:
            return
        row = self._selected()
        if row is not None:
            text = Text("\n").join(detail_lines(row, self.size.width - _SIDES))
        elif self._words:
            text = Text(f"No guest has {self._words!r} in its names: esc shows all, / changes the words.")
        elif self._away:
            text = Text("No guest is known.")
        else:
            text = Text("No guest is here: `tmem run --host -- prog args` makes one.")
        self.screen_stack[0].query_one("#detail", Static).update(text)

    def on_data_table_row_highlighted(self, _event: DataTable.RowHighlighted) -> None:
        """Show the guest that is selected now."""
        self._draw_detail()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Order by the column that was clicked; turn the order at the second click."""
        key = event.column_key.value
        if key == self._sort:
            self.action_turn()
        elif key is not None and key in SORTS:
            self._sort, self._turned = key, False
            self._draw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether a key counts now: while words are typed, letters are letters."""
        typing = self.screen_stack and isinstance(self.focused, Input)
        if action == "all":
            return bool(typing or self._words)
        if typing and action in _VERBS:
            return False
        return super().check_action(action, parameters)

    def action_help(self) -> None:
        """Open the help."""
        self.push_screen(HelpScreen())

    def action_sort(self) -> None:
        """Order by the next column."""
        names = list(SORTS)
        self._sort, self._turned = names[(names.index(self._sort) + 1) % len(names)], False
        self._draw()

    def action_turn(self) -> None:
        """Turn the order."""
        self._turned = not self._turned
        self._draw()

    def action_filter(self) -> None:
        """Ask for the words."""
        field = self.query_one("#filter", Input)
        field.value = self._words
        field.add_class("shown")
        field.focus()
        self.refresh_bindings()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as it is typed."""
        if event.input.has_class("shown"):
            self._words = event.value.strip()
            self._draw()

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        """Keep the words."""
        self._close_filter()

    def action_all(self) -> None:
        """Show all guests again."""
        self._words = ""
        self._close_filter()
        self._say("")
        self._draw()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).remove_class("shown")
        self._guests.focus()
        self.refresh_bindings()

    def action_freeze(self) -> None:
        """Freeze the guest that is selected."""
        self._act(self._feed.freeze)

    def action_thaw(self) -> None:
        """Thaw it."""
        self._act(self._feed.thaw)

    def action_end(self) -> None:
        """Ask, and end it."""
        row = self._selected()
        if row is None or self._away:
            self._say("no guest is selected" if row is None else "the daemon is away: wait until it is back")
            return

        def answered(yes: bool | None) -> None:  # noqa: FBT001 - textual calls it
            if yes:
                self._do(self._feed.end, row.guest.id)

        self.push_screen(EndScreen(row), answered)

    def _act(self, verb: Callable[[int], str]) -> None:
        number = self._selected_id()
        if number is None or self._away:
            self._say("no guest is selected" if number is None else "the daemon is away: wait until it is back")
        else:
            self._do(verb, number)

    @work(group="verbs")
    async def _do(self, verb: Callable[[int], str], guest: int) -> None:
        """Do it beside the terminal's thread, and show what it did."""
        try:
            self._say(await asyncio.to_thread(verb, guest))
        except HostAwayError as error:
            self._away = str(error)
            self._say("not done")
        except TmemError as error:
            self._say(f"not done: {error}")
        self.tick()

    def _say(self, text: str) -> None:
        """Say something for a while in the line above the keys."""
        if not self._is_there:
            return
        line = self.screen_stack[0].query_one("#said", Static)
        line.update(text)
        line.set_class(bool(text), "shown")
        self._saying += 1
        if text:
            self.set_timer(_SECONDS_SAID, lambda number=self._saying: self._say("") if number == self._saying else None)
