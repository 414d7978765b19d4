# SPDX-License-Identifier: Apache-2.0
"""check_ops finds nothing in sound backends, and names the law that a broken one breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tmem
from tests import dictbackends
from tmem.backendprocess import ProcessBackend
from tmem.testing import Pages, check_ops
from tmem.testing.pages import first_difference, is_mixture

SOUND: dict[str, Callable[[], tmem.FrontswapOps]] = {
    "dict": dictbackends.DictBackend,
    "refuses": lambda: dictbackends.Refuses(10),
    "store": lambda: tmem.LocalBackend("4M", pages=1000),
    "small store": lambda: tmem.LocalBackend("64K", pages=1000),
    "raw store": lambda: tmem.LocalBackend("256K", pages=1000, raw=True),
    "plain": lambda: tmem.PlainCopies(1000),
    "refuse": tmem.RefuseAll,
    "pool": lambda: tmem.PoolBackend(dictbackends.DictPool()),
}
BROKEN = [
    ("KeepsOldData", "law 3: page 0 of area 0 was refused and its old contents are still there"),
    ("Torn", "law 8: page 0 of area 0 is torn"),
    ("KeepsTheFlushed", "law 4: page 3 of area 0 was invalidated and is there"),
    ("KeepsTheView", "law 2: load of page 0 of area 0 gives the caller's memory"),
    ("KeepsABuffer", "law 2: store keeps a view of the caller's memory"),
    ("KeepsTheMemory", "law 2: page 0 of area 0 changed with the caller's memory"),
    ("Forgets", "was taken and is gone"),
    ("MixesNeighbours", "gives the contents of page"),
    ("MixesAreas", "law 12: page 0 of area 1 gives the contents of page 0 of area 0"),
    ("InventsPages", "law 4: page 9 of area 0 was never stored and is there"),
    ("TakesAlways", "area 0 is not announced, and page 2 of area 0 was taken"),
    ("CutsPages", "law 12: load of page 0 of area 0 gave 4000 bytes"),
    ("PadsPages", "law 12: page 5 of area 0 was offered with 0 bytes"),
    ("FlipsBits", "gives other bytes than were stored, from byte 100 on"),
    ("Raises", "store of page 3 of area 0 raised RuntimeError: no room"),
    ("AnswersNothing", "law 1: store answered NoneType"),
]


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("seed", [0, 1])
def test_sound_backends_break_no_law(name: str, seed: int) -> None:
    assert check_ops(SOUND[name](), seed=seed, steps=1000, concurrent=True) == []


@pytest.mark.parametrize(("name", "law"), BROKEN, ids=[name for name, _ in BROKEN])
def test_a_broken_backend_is_convicted_of_the_law_it_breaks(name: str, law: str) -> None:
    broken = check_ops(getattr(dictbackends, name)(), steps=200)
    assert any(law in text for text in broken), broken


def test_a_page_torn_by_threads_only_is_seen_with_threads_only() -> None:
    assert check_ops(dictbackends.TornByThreads(), steps=200) == []
    broken = check_ops(dictbackends.TornByThreads(), steps=4000, concurrent=True)
    assert any(text.startswith("law 8: ") and "with several threads" in text for text in broken), broken


def test_a_backend_in_a_process_keeps_the_laws_and_a_broken_one_is_convicted_there_too() -> None:
    sound = ProcessBackend(dictbackends.DictBackend())
    broken = ProcessBackend(dictbackends.Torn())
    try:
        assert check_ops(sound, steps=300, concurrent=True) == []
        assert sound.check() == []
        # Its checksums make the lost page an error before anybody sees its bytes.
        assert any("checksum does not match" in text for text in check_ops(broken, steps=50))
    finally:
        sound.close()
        broken.close()


def test_no_two_pages_are_alike_and_a_mixture_is_known() -> None:
    pages = Pages(0)
    made = [kind() for kind in (pages.same, pages.text, pages.noise, pages.sparse) for _ in range(20)]
    assert len(set(made)) == len(made)
    assert {len(page) for page in made} == {4096}
    first, second = made[0], made[45]
    assert is_mixture(first[:1000] + second[1000:], [first, second])
    assert not is_mixture(first, [first, second])
    assert not is_mixture(made[50], [first, second])
    assert (first_difference(first, first), first_difference(first[:9] + b"?", first)) == (4096, 9)
