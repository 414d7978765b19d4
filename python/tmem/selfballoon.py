# SPDX-License-Identifier: Apache-2.0
"""Self-ballooning: a guest that sets its own RAM target by what it has committed, and takes stored pages back in time.

Owns: the control laws of Xen's self-balloon driver and of its frontswap self-shrinking, with their tunables by their
names, and the thread that applies them to a Memory. Called by users. Calls memory, limits. The laws are pure; counts
are pages.
Law: fast up and slow down. A target is never below the floor, and never above what the Memory was made with.
"""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tmem.counters import PAGE
from tmem.errors import ClosedError, TmemError, TmemWarning
from tmem.limits import allowance
from tmem.memory import MINIMUM_RAM, Memory

__all__ = [
    "Committed",
    "SelfBalloon",
    "Shrinking",
    "Tick",
    "Tunables",
    "committed_as",
    "floor",
    "goal",
    "pressure",
    "shrink_target",
    "target",
]

PRESSED = 0.10
"""Where somebody on the machine waited for memory so much of the last ten seconds, no target grows."""

Root = str | os.PathLike[str]
_MIB_PAGES = (1 << 20) // PAGE
_SMALLEST = 16  # MiB: what is smaller keeps all it has
_FLOORS = ((64, 16, 2), (512, 40, 8), (1 << 50, 99, 32))
"""Below the first number of MiB: the second, and of the rest one part in the third."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunables:
    """What was in sysfs, with the defaults of the driver. A hysteresis of 0 stops movement in that direction."""

    selfballooning: bool = True
    selfballoon_interval: float = 5.0  # seconds from one tick to the next
    selfballoon_downhysteresis: int = 8  # of what is too much, this part goes in one tick
    selfballoon_uphysteresis: int = 1  # of what is missing, this part comes in one tick
    selfballoon_min_usable_mb: int = 0  # the floor above what tables take; 0: by the formula
    selfballoon_reserved_mb: int | None = None  # wanted beyond what is committed; None: 10 % of the RAM at the start
    frontswap_selfshrinking: bool = True
    frontswap_hysteresis: int = 20  # of the stored pages, this part comes back in one tick
    frontswap_inertia: int = 3  # ticks without growth before any do

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and value < 0:
                raise ValueError(f"{one.name} of {value} is below 0: use 0 or more")
        if not self.selfballoon_interval:
            raise ValueError("selfballoon_interval of 0 would never rest: use some seconds")


# The laws


def goal(committed: int, reserve: int, reserved: int, stored: int) -> int:
    """Return the pages of RAM that a guest should have: for all that it committed, its tables, and what is stored."""
    return committed + reserve + reserved + stored


def target(now: int, aim: int, down: int, up: int) -> int:
    """Return the next target on the way from `now` to the goal: a part of the distance, another one up than down."""
    if now > aim and down:
        return now - (now - aim) // down
    if now < aim and up:
        return now + (aim - now) // up
    return now


def floor(whole: int, reserve: int, min_usable_mb: int = 0) -> int:
    """Return the least pages for a guest of `whole` pages, of which `reserve` are no use to its program."""
    if min_usable_mb:
        return reserve + min_usable_mb * _MIB_PAGES
    usable = whole - reserve
    if usable < _SMALLEST * _MIB_PAGES:
        return whole
    least, part = next((least, part) for below, least, part in _FLOORS if usable < below * _MIB_PAGES)
    return reserve + least * _MIB_PAGES + (usable - least * _MIB_PAGES) // part


@dataclass(frozen=True, slots=True)
class Shrinking:
    """What self-shrinking remembers from one tick to the next."""

    pages: int = 0
    left: int = 0  # ticks to wait


def shrink_target(pages: int, before: Shrinking, hysteresis: int, inertia: int) -> tuple[int | None, Shrinking]:
    """Return how many of the stored pages are to stay, None for all, and what to remember.

    As long as pages are stored, more of them each time, nothing comes back: the guest is short of RAM.
    """
    if pages == 0 or pages > before.pages:
        return None, Shrinking(pages, inertia)
    left = max(0, before.left - 1)
    if left or not hysteresis:
        return None, Shrinking(pages, left)
    stay = 0 if pages <= hysteresis else pages - pages // hysteresis
    return stay, Shrinking(pages, inertia)


# The inputs


def committed_as(root: Root = "/") -> int:
    """Return Committed_AS in pages: all memory that the machine's processes were promised."""
    for line in Path(root, "proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("Committed_AS:"):
            return int(line.split()[1]) * 1024 // PAGE
    raise OSError("/proc/meminfo has no Committed_AS line: is /proc mounted? Otherwise use committed='memory'")


def pressure(root: Root = "/") -> float:
    """Return the part of the last ten seconds in which some process waited for memory; 0 without PSI in the kernel."""
    try:
        first = Path(root, "proc/pressure/memory").read_text(encoding="utf-8").split("\n", 1)[0]
    except OSError:
        return 0.0
    words = dict(word.split("=", 1) for word in first.split() if "=" in word)
    return float(words.get("avg10", 0.0)) / 100


# The driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What a tick saw and did. Sizes are bytes."""

    goal: int
    before: int  # the RAM target that was in force
    ram: int  # the one that is now
    pressure: float
    stored: int  # pages that could come back
    unstored: int  # bytes that did


Committed = str
"""Whose memory counts as committed: `machine`, all processes' and the arrays; `memory`, the arrays alone."""


class SelfBalloon:
    """Sets the RAM target of a Memory every few seconds, between the smallest budget and the one it was made with.

    `committed` is what the target follows. `machine` is the historical law, for a virtual machine or container that one
    guest has to itself: the kernel's Committed_AS, which is all processes', and the arrays of the Memory, which the
    kernel does not count. `memory` is the arrays alone. A limit of the cgroup below the budget holds at once.
    It does not go with a host that balloons the same Memory: both would set one number.
    It begins with `start()` or a `with` block, in a daemon thread that ends with `stop()` or the Memory's `close()`.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        committed: Committed = "machine",
        root: Root = "/",
        **tunables: float | None,
    ) -> None:
        if committed not in ("machine", "memory"):
            raise ValueError(f"committed must be machine or memory, not {committed!r}")
        self._memory = memory
        self._committed = committed
        self._root = root
        self._budget = memory.ram
        self._shrinking = Shrinking()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.tunables = _changed(Tunables(), tunables)
        self.last: Tick | None = None

    def set(self, **tunables: float | None) -> None:
        """Change tunables, by their names, from the next tick on. TypeError for an unknown one, ValueError below 0."""
        self.tunables = _changed(self.tunables, tunables)

    @property
    def running(self) -> bool:
        """Whether its thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to tick. Twice does no harm."""
        with self._lock:
            if self.running:
                return
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, name="tmem-selfballoon", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Tick no more. The target stays where it is; `memory.resize()` sets another."""
        self._ended.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def tick(self) -> Tick:
        """Look, and move the target and the stored pages by one step. ClosedError once the Memory is closed."""
        chosen, memory = self.tunables, self._memory
        if memory.closed:
            raise ClosedError(f"{memory.name} is closed: nothing is left to steer")
        found, most = memory.stats(), min(self._budget, allowance(self._root).count)
        reserve = found.metadata // PAGE
        mb = chosen.selfballoon_reserved_mb
        reserved = self._budget // 10 // PAGE if mb is None else mb * _MIB_PAGES
        stored = found.store_pages - found.store_same  # the others take no room, and are in no order
        committed = found.mapped // PAGE + (committed_as(self._root) if self._committed == "machine" else 0)
        aim = goal(committed, reserve, reserved, stored if chosen.frontswap_selfshrinking else 0)
        presses, before = pressure(self._root), memory.ram
        ram = before
        if chosen.selfballooning:
            least = floor(self._budget // PAGE, reserve, chosen.selfballoon_min_usable_mb)
            next_one = target(before // PAGE, aim, chosen.selfballoon_downhysteresis, chosen.selfballoon_uphysteresis)
            if presses >= PRESSED:
                next_one = min(next_one, before // PAGE)
            ram = max(MINIMUM_RAM, min(max(next_one, least) * PAGE, most))
            if ram != before:
                memory.resize(ram)
        unstored = self._shrink(chosen, stored) if chosen.frontswap_selfshrinking else 0
        self.last = Tick(goal=aim * PAGE, before=before, ram=ram, pressure=presses, stored=stored, unstored=unstored)
        return self.last

    def _shrink(self, chosen: Tunables, stored: int) -> int:
        stay, self._shrinking = shrink_target(
            stored, self._shrinking, chosen.frontswap_hysteresis, chosen.frontswap_inertia
        )
        if stay is None or stay == stored:
            return 0
        return self._memory.unstore((stored - stay) * PAGE)

    def _run(self) -> None:
        while not self._ended.wait(self.tunables.selfballoon_interval):
            try:
                self.tick()
            except ClosedError:
                return
            except (TmemError, OSError, ValueError) as error:
                text = f"self-ballooning of {self._memory.name} ends, and its RAM stays as it is: {error}"
                warnings.warn(text, TmemWarning, stacklevel=1)
                return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _changed(before: Tunables, tunables: dict[str, float | None]) -> Tunables:
    unknown = sorted(set(tunables) - {one.name for one in fields(Tunables)})
    if unknown:
        raise TypeError(f"unknown tunable {unknown[0]!r}: use {', '.join(one.name for one in fields(Tunables))}")
    return replace(before, **tunables)  # type: ignore[arg-type]
