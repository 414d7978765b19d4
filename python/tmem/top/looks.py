# SPDX-License-Identifier: Apache-2.0
"""How top's numbers look: short sizes, bars, the columns that a width has room for, the lines above and below.

Owns: glyphs, colours, headings. Called by app. Calls model. Makes text and draws nothing.
Law: what a colour says, a glyph or a word says too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rich.text import Text

from tmem.operator import GuestRow
from tmem.top.model import Row, View

__all__ = ["Column", "Scale", "bar", "columns_for", "detail_lines", "host_lines", "short_size"]

RESIDENT, STANDBY, STORE, SWAP, EMPTY = "█", "▓", "▒", "░", "·"
SHARE_MARK, CAP_MARK = "|", "]"
# Light ones: without colour, and on the row that is selected, they are greys that can still be read.
_GREEN, _BLUE, _YELLOW, _PINK, _RED, _DIM = "#87d75f", "#5fd7ff", "#ffd75f", "#ff87d7", "#ff8787", "#808080"
_STYLES = {RESIDENT: _GREEN, STANDBY: _BLUE, STORE: _YELLOW, SWAP: _PINK, EMPTY: _DIM}
_HIGH, _SOME = 0.25, 0.05
_LEAST_MEMORY, _LEAST_LEASE, _LEAST_NAME = 16, 13, 11
_MOST_NAME = 24
_SIDE_BAR = 8
_KIB = 1024


def short_size(count: float) -> str:
    """Return a size in at most five signs: `0`, `12K`, `1.5G`, `512M`."""
    for unit in ("", "K", "M", "G", "T", "P"):
        if abs(count) < 999.5 or unit == "P":  # noqa: PLR2004 - three digits at most
            exact = unit == "" or abs(count) >= 99.5 or float(count).is_integer()  # noqa: PLR2004
            return f"{count:.0f}{unit}" if exact else f"{count:.1f}{unit}"
        count /= _KIB
    raise AssertionError


def short_count(count: float) -> str:
    """Return a count in at most five signs, by thousands: `12`, `5.2k`, `310k`."""
    for unit in ("", "k", "m"):
        if abs(count) < 999.5:  # noqa: PLR2004
            return f"{count:.1f}{unit}" if 0 < abs(count) < 9.95 and (unit or count < 1) else f"{count:.0f}{unit}"  # noqa: PLR2004
        count /= 1000
    return f"{count:.0f}g"


def bar(parts: Iterable[tuple[str, float]], whole: float, width: int, marks: Iterable[tuple[str, float]] = ()) -> Text:
    """Return a bar of `width` signs for `whole`: each part with its glyph, then marks over it.

    No part is lost to rounding: what is more than nothing has a sign, where there is room.
    """
    signs: list[str] = []
    total = 0.0
    for glyph, amount in parts:
        total += max(0.0, amount)
        end = round(total / whole * width) if whole > 0 else 0
        if amount > 0 and end <= len(signs):
            end = len(signs) + 1
        signs.extend(glyph * (min(end, width) - len(signs)))
    signs.extend(EMPTY * (width - len(signs)))
    for mark, at in marks:
        if whole > 0 and 0 <= at <= whole:
            signs[min(width - 1, int(at / whole * width))] = mark
    made = Text()
    for sign, run in groupby(signs):
        made.append("".join(run), _STYLES.get(sign, "bold"))
    return made


@dataclass(frozen=True, slots=True)
class Scale:
    """What a full bar stands for, the same for all guests, so that bars can be compared."""

    memory: float
    lease: float

    @staticmethod
    def of(rows: Iterable[Row], capacity: int) -> Scale:
        """Return the scale for these rows."""
        memory = max((_memory(row.guest) for row in rows), default=0)
        lease = max((max(row.guest.lease_bytes, row.guest.share_bytes) for row in rows), default=0)
        caps = [row.guest.cap for row in rows if row.guest.cap is not None and row.guest.cap <= capacity]
        return Scale(memory, max(lease, max(caps, default=0)))


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table: its width without the gap, and what it shows of a row."""

    key: str  # of its order in model.SORTS, where it has one
    heading: str
    width: int
    show: Callable[[Row, Scale, int], Text]
    right: bool = True

    def cell(self, row: Row, scale: Scale) -> Text:
        """Return what it shows of a row, as wide as it is."""
        text = self.show(row, scale, self.width)
        text.truncate(self.width, overflow="ellipsis")
        text.align("right" if self.right else "left", self.width)
        return text

    def title(self, sort: str, *, turned: bool) -> Text:
        """Return the heading; an arrow is beside the one that the rows are ordered by."""
        heading = self.heading if len(self.heading) <= self.width else self.heading.partition(" ")[0]
        name = heading.rjust(self.width) if self.right else heading.ljust(self.width)
        if sort != self.key:
            return Text(name)
        arrow = "▲" if turned else "▼"
        return Text(f"{name}{arrow}" if self.right else f"{heading}{arrow}".ljust(self.width), "bold reverse")


def _plain(show: Callable[[Row], str]) -> Callable[[Row, Scale, int], Text]:
    return lambda row, _scale, _width: Text(show(row))


def _size(show: Callable[[GuestRow], int | None]) -> Callable[[Row, Scale, int], Text]:
    def shown(row: Row, _scale: Scale, _width: int) -> Text:
        size = show(row.guest)
        return Text("-" if size is None else short_size(size), _DIM if not size else "")

    return shown


def _state(row: Row, _scale: Scale, _width: int) -> Text:
    if row.guest.frozen:
        return Text("F", f"bold {_BLUE}")
    return Text("B", f"bold {_YELLOW}") if row.guest.balloon else Text(" ")


def _stall(row: Row, _scale: Scale, _width: int) -> Text:
    style = f"bold {_RED}" if row.stall >= _HIGH else _YELLOW if row.stall >= _SOME else ""
    return Text(f"{row.stall * 100:.0f}%", style)


def _memory(guest: GuestRow) -> int:
    return guest.resident + guest.standby + guest.stored_bytes + guest.swap_bytes


def _memory_bar(row: Row, scale: Scale, width: int) -> Text:
    guest = row.guest
    parts = (
        (RESIDENT, guest.resident), (STANDBY, guest.standby), (STORE, guest.stored_bytes), (SWAP, guest.swap_bytes)
    )  # fmt: skip
    return bar(parts, scale.memory, width)


def _lease_bar(row: Row, scale: Scale, width: int) -> Text:
    guest = row.guest
    parts = ((RESIDENT, guest.persistent_bytes), (STORE, guest.ephemeral_bytes + guest.shared_bytes))
    marks = [(SHARE_MARK, float(guest.share_bytes))]
    if guest.cap is not None:
        marks.append((CAP_MARK, float(guest.cap)))
    return bar(parts, scale.lease, width, marks)


_ALWAYS = (
    Column("state", "", 1, _state, right=False),
    Column("name", "NAME", _LEAST_NAME, _plain(lambda row: row.guest.name), right=False),
    Column("pid", "PID", 7, _plain(lambda row: str(row.guest.pid))),
    Column("user", "USER", 8, _plain(lambda row: row.guest.owner), right=False),
    Column("memory", "MEMORY", _LEAST_MEMORY, _memory_bar, right=False),
    Column("bar", "LEASED  | SHARE  ] CAP", _LEAST_LEASE, _lease_bar, right=False),
    Column("lease", "LEASE", 5, _size(lambda guest: guest.lease_bytes)),
    Column("faults", "FLT/S", 5, _plain(lambda row: short_count(row.faults_s))),
    Column("stall", "STALL", 5, _stall),
)
_WHERE_ROOM = (
    Column("refused", "REFUS", 5, _plain(lambda row: short_count(row.refused))),
    Column("resident", "RESID", 5, _size(lambda guest: guest.resident)),
    Column("swap", "SWAP", 5, _size(lambda guest: guest.swap_bytes)),
    Column("store", "STORE", 5, _size(lambda guest: guest.stored_bytes)),
    Column("share", "SHARE", 5, _size(lambda guest: guest.share_bytes)),
    Column("cap", "CAP", 5, _size(lambda guest: guest.cap)),
    Column("weight", "WT", 5, _plain(lambda row: short_count(row.guest.weight))),
    Column("standby", "STDBY", 5, _size(lambda guest: guest.standby)),
)
_ORDER = (
    "state", "name", "pid", "user", "memory", "resident", "standby", "store", "swap", "bar", "lease", "share", "cap",
    "weight", "refused", "faults", "stall",
)  # fmt: skip


def columns_for(width: int) -> tuple[Column, ...]:
    """Return the columns that `width` has room for, the bars widened to fill it; a gap of one sign is between them."""
    found = {column.key: column for column in _ALWAYS}
    left = width + 1 - sum(column.width + 1 for column in _ALWAYS)
    for column in _WHERE_ROOM:
        if left < column.width + 1:
            break
        found[column.key] = column
        left -= column.width + 1
    for key, share, most in (("name", 0.3, _MOST_NAME - _LEAST_NAME), ("bar", 0.5, width), ("memory", 1.0, width)):
        more = max(0, min(int(left * share), most))
        found[key] = replace(found[key], width=found[key].width + more)
        left -= more
    return tuple(found[key] for key in _ORDER if key in found)


def host_lines(view: View, width: int, order: str) -> list[Text]:
    """Return the four lines about the host; `order` tells how the guests below are chosen and ordered."""
    host, rates = view.host, view.rates
    pools = len(view.pools) or host.pools
    kept = max(0, host.leased_bytes - host.freeable_bytes)
    guests = f"{host.guests} guest{'' if host.guests == 1 else 's'}"
    first = Text.assemble(
        ("tmem top", "bold"), f"  policy {host.policy}  {guests}", f"  {pools} shared pool{'' if pools == 1 else 's'}"
    )
    pressure = Text(f"pressure {host.pressure:.0%}", f"bold {_RED}" if host.pressure >= _HIGH else "")
    _spread(first, pressure, width)
    parts = [(RESIDENT, "kept", kept), (STORE, "freeable", host.freeable_bytes)]
    if host.reserved_bytes:
        parts.append((SWAP, "awaited", host.reserved_bytes))
    whole = short_size(host.capacity)
    filled = bar(((glyph, size) for glyph, _, size in parts), host.capacity, width - len(f"host [] {whole}"))
    second = Text.assemble("host [", filled, f"] {whole}")
    third = _legend((*parts, (EMPTY, "free", host.free_bytes)))
    third = _spread(Text("     ").append_text(third), Text(order, "bold"), width)
    return [first, second, third, _counts_line(rates.granted_s, rates.refused_s, host.refused)]


def _spread(left: Text, right: Text, width: int) -> Text:
    left.append(" " * max(2, width - left.cell_len - right.cell_len))
    return left.append_text(right)


def _counts_line(granted: float | None, refused: float | None, reasons: Mapping[str, int]) -> Text:
    line = Text("     ")
    line.append(f"granted {_rate(granted)}  refused {_rate(refused)}")
    if reasons:
        line.append(f"  in all: {_reasons(reasons)}")
    return line


def _legend(parts: Sequence[tuple[str, str, float]]) -> Text:
    line = Text()
    for glyph, name, size in parts:
        line.append(glyph, _STYLES[glyph])
        line.append(f" {name} {short_size(size)}   ")
    return line


def _rate(count: float | None) -> str:
    return "-" if count is None else f"{short_count(count)}/s"


def _reasons(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {short_count(count)}" for reason, count in sorted(counted.items()))


def detail_lines(row: Row, width: int) -> list[Text]:
    """Return the lines about the guest that is selected: every bar by itself, and what it was refused."""
    guest = row.guest
    title = Text(guest.name, "bold")
    title.append(f"  guest {guest.id}  pid {guest.pid}  {guest.owner}  weight {guest.weight}", "not bold")
    title.append(f"  compress {'on' if guest.compress else 'off'}", "not bold")
    if guest.frozen:
        title.append("  FROZEN", f"bold {_BLUE}")
    if guest.balloon:
        title.append(f"  ballooned to {short_size(guest.balloon)}", f"bold {_YELLOW}")
    side = max(_SIDE_BAR, (width - 2 * 18) // 2 - 4)
    whole = max(guest.ram, _memory(guest))
    pairs = (
        (("resident", RESIDENT, guest.resident), ("standby", STANDBY, guest.standby)),
        (("store", STORE, guest.stored_bytes), ("swap", SWAP, guest.swap_bytes)),
    )
    lines = [title]
    for pair in pairs:
        line = Text()
        for name, glyph, size in pair:
            line.append(f"{name:<9}")
            line.append_text(bar(((glyph, size),), whole, side))
            line.append(f" {short_size(size):>5}   ")
        lines.append(line)
    lease = Text.assemble(f"{'lease':<9}", _lease_bar(row, Scale.of((row,), guest.cap or 0), side))
    lease.append(f" {short_size(guest.lease_bytes):>5}   ")
    cap = "no cap" if guest.cap is None else f"{CAP_MARK} cap {short_size(guest.cap)}"
    lease.append(f"{SHARE_MARK} share {short_size(guest.share_bytes)}  {cap}  reserved {short_size(guest.reservation)}")
    asks = f"{'refused':<9}{_reasons(guest.refused) or 'never'} ({_rate(row.refused_s)})"
    asks += f"  wants {short_size(guest.want_bytes)}"
    active = f"  active {guest.active / guest.sampled:.0%}" if guest.sampled else ""
    return [*lines, lease, Text(f"{asks}  budget {short_size(guest.ram)}{active}")]
