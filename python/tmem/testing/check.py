# SPDX-License-Identifier: Apache-2.0
"""check_ops: the laws, asked of anybody's backend.

Owns: the scenes, one for each law, and the walk at random after them. Called by users and tests. Calls trial,
concurrent.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tmem.ops import PAGE_SIZE, FrontswapOps
from tmem.testing.concurrent import hammer
from tmem.testing.pages import Pages
from tmem.testing.trial import Trial

__all__ = ["check_ops"]

_AREAS = (0, 1)
_PAGES = 32


def check_ops(ops: FrontswapOps, *, seed: int = 0, steps: int = 2000, concurrent: bool = False) -> list[str]:
    """Return each law that `ops` was seen to break, in words; an empty list when none was.

    It is driven beside a plain dict: a scene for each law, then `steps` verbs at random from `seed`. Areas 0 and 1 are
    used, and end invalidated. `concurrent` calls it from several threads at once, too, which the hook itself never
    does.
    """
    trial, pages = Trial(ops), Pages(seed)
    for scene in _SCENES:
        _announce(trial)
        scene(trial, pages)
        trial.sweep()
    _announce(trial)
    _walk(trial, pages, random.Random(seed), steps)  # noqa: S311 - to be repeated, not to be secret
    trial.sweep()
    if concurrent:
        _announce(trial)
        hammer(ops, trial.note, seed=seed, rounds=max(steps // 10, 50))
    for area in _AREAS:
        trial.invalidate_area(area)
    return trial.broken


def _announce(trial: Trial) -> None:
    for area in _AREAS:
        trial.invalidate_area(area)
        trial.init(area, _PAGES)


def _copies(trial: Trial, pages: Pages) -> None:
    """Law 2: the memory of a store is used for the next one."""
    for page, make in enumerate((pages.same, pages.text, pages.noise, pages.sparse)):
        trial.store(0, page, make())
        trial.load(0, page)


def _replaced_or_gone(trial: Trial, pages: Pages) -> None:
    """Law 3: contents that shrink, then such that do not, and back; and duplicates where all room is taken."""
    for page in range(8):
        for make in (pages.text, pages.noise, pages.same, pages.noise, pages.text):
            trial.store(0, page, make())
            trial.load(0, page)
    for page in range(_PAGES):
        trial.store(1, page, pages.noise())
    for page in range(_PAGES):
        trial.store(1, page, pages.text())
        trial.store(1, page, pages.noise())


def _misses(trial: Trial, pages: Pages) -> None:
    """Law 4: never stored, invalidated, and stored twice before a load."""
    trial.load(0, 9)
    trial.store(0, 3, pages.text())
    trial.invalidate_page(0, 3)
    trial.load(0, 3)
    trial.load(0, 3)
    trial.store(0, 3, pages.text())
    trial.store(0, 3, pages.same())
    trial.load(0, 3)


def _kept(trial: Trial, pages: Pages) -> None:
    """Law 5: whatever else comes and goes, what was taken stays, however often it is read."""
    for page in range(0, _PAGES, 2):
        trial.store(0, page, pages.any())
    for page in range(1, _PAGES, 2):
        trial.store(0, page, pages.any())
        trial.invalidate_page(0, page)
        trial.load(0, page - 1)
        trial.load(0, page - 1)


def _absent(trial: Trial, pages: Pages) -> None:
    """Law 7: to forget what is not there is no error."""
    trial.invalidate_page(0, 5)
    trial.store(0, 5, pages.text())
    trial.invalidate_page(0, 5)
    trial.invalidate_page(0, 5)
    trial.invalidate_page(1, _PAGES - 1)


def _areas(trial: Trial, pages: Pages) -> None:
    """One area is not the other, one page not its neighbour; an area that ended takes nothing until it is announced."""
    for area in _AREAS:
        for page in (0, 1, 2, _PAGES - 1):
            trial.store(area, page, pages.any())
    trial.invalidate_page(0, 1)
    trial.sweep()
    trial.invalidate_area(0)
    trial.sweep()
    trial.store(0, 2, pages.text())
    trial.load(0, 2)
    trial.invalidate_area(0)
    trial.init(0, _PAGES)
    trial.load(0, 2)
    trial.store(0, 2, pages.text())
    trial.init(0, _PAGES)  # again, which forgets nothing


def _sizes(trial: Trial, pages: Pages) -> None:
    """Law 12: what is no page is refused, or comes back as it was."""
    for count in (0, 100, PAGE_SIZE - 1, PAGE_SIZE + 1, 2 * PAGE_SIZE):
        trial.store(0, 4, pages.text())
        trial.store_wrong_size(0, 5, count)
        trial.load(0, 4)


_SCENES: tuple[Callable[[Trial, Pages], None], ...] = (
    _copies,
    _replaced_or_gone,
    _misses,
    _kept,
    _absent,
    _areas,
    _sizes,
)


def _walk(trial: Trial, pages: Pages, chance: random.Random, steps: int) -> None:
    for _ in range(steps):
        area, page = chance.choice(_AREAS), chance.randrange(_PAGES)
        match chance.choices(("store", "load", "forget", "end"), (40, 40, 15, 1))[0]:
            case "store":
                trial.store(area, page, pages.any())
            case "load":
                trial.load(area, page)
            case "forget":
                trial.invalidate_page(area, page)
            case _:
                trial.invalidate_area(area)
                trial.store(area, page, pages.any())
                trial.init(area, _PAGES)
