# SPDX-License-Identifier: Apache-2.0
"""The laws of self-ballooning and self-shrinking by their numbers, and a Memory that follows them."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tmem
from tmem.selfballoon import (
    SelfBalloon,
    Shrinking,
    Tunables,
    committed_as,
    floor,
    goal,
    pressure,
    shrink_target,
    target,
)

MIB = 1 << 20
PAGES = MIB // 4096
COUNTS = st.integers(0, 1 << 30)


def test_tunables_have_their_names_and_defaults() -> None:
    assert Tunables() == Tunables(
        selfballooning=True,
        selfballoon_interval=5,
        selfballoon_downhysteresis=8,
        selfballoon_uphysteresis=1,
        selfballoon_min_usable_mb=0,
        selfballoon_reserved_mb=None,
        frontswap_selfshrinking=True,
        frontswap_hysteresis=20,
        frontswap_inertia=3,
    )
    with pytest.raises(ValueError, match="frontswap_inertia of -1 is below 0"):
        Tunables(frontswap_inertia=-1)
    with pytest.raises(ValueError, match="would never rest"):
        Tunables(selfballoon_interval=0)


def test_goal_adds_what_the_law_adds() -> None:
    assert goal(1000, 20, 300, 4) == 1324


def test_target_goes_down_by_an_eighth_and_up_at_once() -> None:
    assert target(1000, 200, 8, 1) == 900
    assert target(200, 1000, 8, 1) == 1000
    assert target(200, 1000, 8, 4) == 400
    assert target(500, 500, 8, 1) == 500
    assert target(1000, 200, 0, 1) == 1000
    assert target(200, 1000, 8, 0) == 200


@given(now=COUNTS, aim=COUNTS, down=st.integers(1, 50), up=st.integers(1, 50))
@settings(deadline=None)
def test_target_never_passes_the_goal(now: int, aim: int, down: int, up: int) -> None:
    assert min(now, aim) <= target(now, aim, down, up) <= max(now, aim)


@pytest.mark.parametrize(
    ("usable", "least"),
    [(15, 15), (16, 16), (32, 24), (64, 40 + 3), (128, 40 + 11), (512, 99 + 413 / 32), (4096, 99 + 3997 / 32)],
)
def test_floor_is_the_formula(usable: int, least: float) -> None:
    for reserve in (0, 5 * PAGES):
        assert floor(usable * PAGES + reserve, reserve) == reserve + int(least * PAGES)


def test_floor_by_hand_is_what_is_asked_for() -> None:
    assert floor(1024 * PAGES, 7, 100) == 7 + 100 * PAGES


@given(whole=st.integers(16 * PAGES, 1 << 28))
@settings(deadline=None)
def test_floor_is_within_the_guest_and_grows_with_it(whole: int) -> None:
    assert 0 < floor(whole, 0) <= whole
    assert floor(whole, 0) <= floor(whole + 1, 0)


def _shrinks(counts: list[int], hysteresis: int = 20, inertia: int = 3) -> list[int | None]:
    state, made = Shrinking(), []
    for count in counts:
        stay, state = shrink_target(count, state, hysteresis, inertia)
        made.append(stay)
    return made


def test_shrinking_waits_for_a_quiet_time() -> None:
    assert _shrinks([100, 100, 100, 100]) == [None, None, None, 95]
    assert _shrinks([100, 100, 100, 101, 101, 101, 101]) == [None] * 6 + [96]
    assert _shrinks([0, 0, 0, 0, 0]) == [None] * 5
    assert _shrinks([100, 100], inertia=0) == [None, 95]
    assert _shrinks([100] * 9, hysteresis=0) == [None] * 9


def test_shrinking_waits_again_after_each_shrink() -> None:
    assert _shrinks([100, 100, 100, 100, 95, 95, 95]) == [None, None, None, 95, None, None, 91]


def test_shrinking_ends_at_nothing() -> None:
    assert _shrinks([20, 20, 20, 20]) == [None, None, None, 0]
    assert _shrinks([21, 21, 21, 21]) == [None, None, None, 20]


# Inputs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a machine with 8 GiB, 40 MiB of them committed, whose PSI says 0.00."""
    (tmp_path / "proc/pressure").mkdir(parents=True)
    _machine(tmp_path, committed=40)
    return tmp_path


def _machine(root: Path, *, committed: int, waits: float = 0.0) -> None:
    text = f"MemTotal: 8388608 kB\nCommitted_AS: {committed * 1024} kB\n"
    (root / "proc/meminfo").write_text(text)
    (root / "proc/pressure/memory").write_text(
        f"some avg10={waits:.2f} avg60=1.00 avg300=0.00 total=1\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=0\n"
    )


def test_inputs_are_read_from_proc(root: Path) -> None:
    assert committed_as(root) == 40 * PAGES
    _machine(root, committed=1, waits=12.5)
    assert pressure(root) == pytest.approx(0.125)
    assert committed_as() > 0
    assert 0 <= pressure() <= 1


def test_a_kernel_without_psi_has_no_pressure(tmp_path: Path) -> None:
    assert pressure(tmp_path) == 0.0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1 kB\n")
    with pytest.raises(OSError, match="Committed_AS"):
        committed_as(tmp_path)


# The driver


@pytest.fixture
def memory() -> Iterator[tmem.Memory]:
    with tmem.Memory("256M", swap="512M", background=False) as made:
        yield made
        assert made.check() == []


def test_target_sinks_to_what_is_committed_and_comes_back_at_once(memory: tmem.Memory, root: Path) -> None:
    balloon = SelfBalloon(memory, root=root, selfballoon_reserved_mb=0)
    seen = [balloon.tick().ram for _ in range(80)]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == pytest.approx(256 * MIB - (256 - 40) * MIB / 8, rel=0.03)
    least = floor(256 * PAGES, memory.stats().metadata // 4096) * 4096
    assert seen[-1] == memory.ram == least > 40 * MIB  # the floor is higher than what is committed
    _machine(root, committed=4000)
    assert balloon.tick().ram == memory.ram == 256 * MIB


def test_target_follows_the_arrays_of_the_memory(memory: tmem.Memory, root: Path) -> None:
    _machine(root, committed=0)
    balloon = SelfBalloon(memory, root=root, committed="memory")
    for _ in range(60):
        balloon.tick()
    low = memory.ram
    assert low < 100 * MIB
    array = memory.array(np.arange(200 * MIB // 8))
    assert balloon.tick().ram == 256 * MIB  # what is stored counts once more: it is to find room
    np.testing.assert_array_equal(array, np.arange(array.size))
    del array


def test_nothing_grows_under_pressure(memory: tmem.Memory, root: Path) -> None:
    balloon = SelfBalloon(memory, root=root)
    memory.resize("100M")
    _machine(root, committed=4000, waits=30.0)
    assert balloon.tick().ram == 100 * MIB
    _machine(root, committed=4000, waits=1.0)
    assert balloon.tick().ram == 256 * MIB


def test_limit_of_the_machine_holds_at_once(memory: tmem.Memory, root: Path) -> None:
    balloon = SelfBalloon(memory, root=root)
    (root / "proc/meminfo").write_text("MemTotal: 131072 kB\nCommitted_AS: 99999999 kB\n")
    assert balloon.tick().ram == 128 * MIB


def test_stored_pages_come_back_a_twentieth_at_a_time(memory: tmem.Memory, root: Path) -> None:
    _machine(root, committed=4000)
    memory.resize("32M")
    array = memory.array(np.random.default_rng(1).integers(0, 1 << 20, 80 * MIB // 8))
    memory.resize("256M")
    balloon = SelfBalloon(memory, root=root)
    found = [balloon.tick() for _ in range(10)]
    moved = [tick.unstored for tick in found]
    assert moved[:3] == [0, 0, 0]
    assert moved[3] == found[3].stored // 20 * 4096
    assert moved[4:6] == [0, 0]
    assert moved[6] == found[6].stored // 20 * 4096
    assert found[6].stored == found[3].stored - found[3].stored // 20
    balloon.set(frontswap_selfshrinking=False)
    assert balloon.tick().unstored == 0
    del array


def test_off_means_off(memory: tmem.Memory, root: Path) -> None:
    balloon = SelfBalloon(memory, root=root, selfballooning=False, frontswap_selfshrinking=False)
    assert balloon.tick().ram == memory.ram == 256 * MIB


def test_unknown_words_are_named(memory: tmem.Memory) -> None:
    with pytest.raises(TypeError, match="unknown tunable 'interval': use selfballooning, selfballoon_interval"):
        SelfBalloon(memory, interval=1)
    with pytest.raises(ValueError, match="machine or memory"):
        SelfBalloon(memory, committed="all")


def test_its_thread_works_and_ends(memory: tmem.Memory, root: Path) -> None:
    before = threading.active_count()
    with SelfBalloon(memory, root=root, selfballoon_interval=0.01) as balloon:
        balloon.start()
        assert balloon.running
        until = time.monotonic() + 20
        while memory.ram == 256 * MIB and time.monotonic() < until:
            time.sleep(0.01)
        assert memory.ram < 256 * MIB
    assert threading.active_count() == before
    balloon.start()
    balloon.stop()
    balloon.stop()


def test_its_thread_ends_with_the_memory(root: Path) -> None:
    memory = tmem.Memory("64M", swap=None)
    balloon = SelfBalloon(memory, root=root, selfballoon_interval=0.01)
    balloon.start()
    memory.close()
    assert balloon._thread is not None
    balloon._thread.join(20)
    assert not balloon.running
    with pytest.raises(tmem.ClosedError):
        balloon.tick()


def test_a_failure_ends_it_with_a_warning(memory: tmem.Memory, root: Path) -> None:
    balloon = SelfBalloon(memory, root=root, selfballoon_interval=0.01)
    (root / "proc/meminfo").write_text("MemTotal: 8388608 kB\n")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        balloon.start()
        assert balloon._thread is not None
        balloon._thread.join(20)
    assert not balloon.running
    assert [str(one.message) for one in found if "self-ballooning of" in str(one.message)]
