# SPDX-License-Identifier: Apache-2.0
"""Bad input: each gives a clear exception that names the next step, and nothing is lost."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tmem
from tmem.limits import allowance

RAM = 16 << 20


@pytest.mark.parametrize(
    "bad", [0, -1, "0", "-5G", "", "2 gb", "lots", "nan", math.nan, math.inf, 1e30, None, True, "101%"]
)
def test_memory_of_a_wrong_size_is_refused(bad: Any) -> None:
    with pytest.raises(tmem.SizeError, match="ram"):
        tmem.Memory(bad)


@pytest.mark.parametrize("small", [1, "15M", 16 * 1024 * 1024 - 1, "10MB"])
def test_memory_below_the_minimum_names_it_in_mib(small: Any) -> None:
    with pytest.raises(tmem.SizeError, match="minimum of 16 MiB: ask for that or more"):
        tmem.Memory(small)


def test_memory_above_the_machine_names_what_there_is() -> None:
    with pytest.raises(tmem.SizeError, match=r"more than the .* has: ask for less"):
        tmem.Memory(allowance().count + 1)


def test_memory_of_a_share_and_of_auto() -> None:
    allowed = allowance().count
    for size, count in (("50%", allowed // 2), ("auto", allowed // 2), ("25%", allowed // 4)):
        with tmem.Memory(size, swap=None) as memory:
            assert memory.ram == count


@pytest.mark.parametrize("faults", ["sigbus", "", "SIGNAL", None])
def test_memory_of_an_unknown_entry_lists_them(faults: Any) -> None:
    with pytest.raises(ValueError, match="auto, signal, thread"):
        tmem.Memory(RAM, faults=faults)


@pytest.mark.parametrize("name", ["", "x" * 64, "a\nb", "ü" * 32])
def test_memory_of_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        tmem.Memory(RAM, name=name)


@pytest.mark.parametrize("order", ["A", "K", "c", "", None])
def test_zeros_of_an_unknown_order_is_refused(memory: tmem.Memory, order: Any) -> None:
    with pytest.raises(ValueError, match="order"):
        memory.zeros(3, order=order)


def test_zeros_of_objects_says_why(memory: tmem.Memory) -> None:
    with pytest.raises(TypeError, match=r"garbage collector.*numpy\.empty"):
        memory.zeros(3, dtype=object)


def test_an_array_that_has_no_room_anywhere_is_refused_and_leaves_nothing(make: Any) -> None:
    memory = make(swap=None)
    kept = memory.full(1000, 9)
    for shape in (1 << 50, (1 << 40, 1 << 10)):
        with pytest.raises((tmem.BudgetError, tmem.SizeError)):
            memory.zeros(shape, dtype="u1")
    with pytest.raises(tmem.SizeError, match="address"):
        memory.zeros((1 << 40, 1 << 40))
    assert kept.sum() == 9000
    assert memory.stats().regions == 1


def _fill(memory: tmem.Memory, times: int) -> list[tuple[Any, Any]]:
    """Write `times` eighths of the budget with noise, until there is no room; return arrays with what they hold."""
    random = np.random.default_rng(3)
    pairs = []
    for _ in range(times):
        values = random.integers(0, 256, RAM // 8, dtype="u1")
        try:
            made = memory.empty(values.size, "u1")
        except tmem.BudgetError as error:
            assert "tmem" in str(error) or "budget" in str(error)  # noqa: PT017 - the loop goes on to the check
            break
        made[:] = values
        pairs.append((made, values))
    return pairs


@pytest.mark.filterwarnings("ignore::tmem.OvershootWarning")
def test_noise_without_swap_is_refused_or_kept_but_never_lost(make: Any) -> None:
    memory = make(swap=None)
    pairs = _fill(memory, 24)
    stats = memory.stats()
    assert len(pairs) < 24 or stats.overshoot_events > 0
    for made, values in pairs:
        np.testing.assert_array_equal(made, values)


@pytest.fixture
def tiny_disk(tmp_path: Path, need_root: None) -> Iterator[Path]:  # noqa: ARG001 - the skip is what is needed
    """Yield a file system of 24 MiB that can be filled."""
    point = tmp_path / "disk"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(point)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs root that may mount")
    yield point
    subprocess.run(["umount", "--lazy", point], check=True)


@pytest.mark.root
@pytest.mark.filterwarnings("ignore::tmem.OvershootWarning")
def test_a_swap_device_that_fills_up_loses_nothing(make: Any, tiny_disk: Path) -> None:
    with pytest.warns(tmem.TmemWarning, match="tmpfs"):
        memory = make(swap=(tiny_disk, "20M"))
    (tiny_disk / "other").write_bytes(bytes(18 << 20))  # now it cannot grow to what was promised
    pairs = _fill(memory, 40)
    for made, values in pairs:
        np.testing.assert_array_equal(made, values)
    assert memory.stats().swap_used <= 6 << 20


@pytest.mark.root
def test_a_read_only_directory_is_refused_for_swap(tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with pytest.raises(tmem.SwapError, match="read-only; name a writable directory"):
        tmem.Memory(RAM, swap=tiny_disk)


def test_a_missing_swap_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tmem.SwapError, match="does not exist"):
        tmem.Memory(RAM, swap=(tmp_path / "missing", "1G"))
    assert not list(tmp_path.iterdir())
