# SPDX-License-Identifier: Apache-2.0
"""The two windows that top opens over itself: its help, and the question before a guest is ended.

Owns: their words. Called by app. Calls textual.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from tmem.top.looks import CAP_MARK, EMPTY, RESIDENT, SHARE_MARK, STANDBY, STORE, SWAP, short_size
from tmem.top.model import Row

__all__ = ["EndScreen", "HelpScreen"]

_HELP = f"""\
[b]Keys[/b]
  arrows  choose a guest (page up, page down, home, end too)
  s  S    order by the next column, turn the order; a click on a heading too
  /       show only guests with these words in their name, user or cgroup;
          pid:N, frozen and ballooned are words, too; esc shows all again
  f  t    freeze, thaw: a frozen guest keeps what it has, and gets no more
  k       end the guest (asks first)
  q       quit
[b]Bars[/b]
  MEMORY  {RESIDENT} resident  {STANDBY} standby  {STORE} store  {SWAP} swap; all guests have one scale
          store: packed pages, in the guest's own memory and in leases
  LEASED  {RESIDENT} kept until given back  {STORE} taken back at any time
          {SHARE_MARK} the share of its weight  {CAP_MARK} its cap
  host    {RESIDENT} kept  {STORE} freeable at once  {EMPTY} free
          {SWAP} awaited: of guests who have not come back since it started
[b]Columns[/b]
  F  B    frozen, ballooned
  FLT/S   pages that were missing, in a second
  STALL   time that its threads waited for pages; several threads add up
  REFUS   how often the host said no"""


class HelpScreen(ModalScreen[None]):
    """The keys and the signs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter,space", "dismiss(None)", "Back"),
    ]

    def compose(self) -> ComposeResult:
        """Show the text, which scrolls where the terminal is low."""
        with VerticalScroll(classes="window") as window:
            window.border_title = "tmem top: help"
            window.border_subtitle = "esc: back"
            yield Static(_HELP)


class EndScreen(ModalScreen[bool]):
    """Asks whether a guest is to be ended, and says what that does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "End it"),
        Binding("escape,n,q,enter,space", "dismiss(False)", "No"),
    ]

    def __init__(self, row: Row) -> None:
        super().__init__()
        self._row = row

    def compose(self) -> ComposeResult:
        """Say it."""
        with VerticalScroll(classes="window") as window:
            window.border_title = "End this guest?"
            window.border_subtitle = "y: end it   n, esc: no"
            yield Static(self._words(), markup=False)

    def _words(self) -> str:
        guest = self._row.guest
        who = f"{guest.name} (guest {guest.id}, pid {guest.pid}, {guest.owner})"
        taken = f"All {short_size(guest.lease_bytes)} that it holds of the host's memory are taken back at once."
        if guest.persistent_bytes:
            end = (
                f"{short_size(guest.persistent_bytes)} of it may hold pages that are nowhere else. They are lost: the "
                "program stops with a report when it next touches one."
            )
        else:
            end = "Nothing of it is persistent: the program misses pages that it must be ready to miss, and goes on."
        return f"{who}\n\n{taken}\n{end}\n\nTo stop its growth only, freeze it: f."
