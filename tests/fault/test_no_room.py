# SPDX-License-Identifier: Apache-2.0
"""No room below RAM (law 14): a refused page stays resident, the budget is overshot and warned of, nothing is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILL = """
swap = os.environ.get("TMEM_TEST_SWAP", "8M")
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    memory = tmem.Memory("16M", swap=(directory, swap), faults=entry)
    prepare()
    pairs, refusal = [], None
    for seed in range(40):
        try:
            array = memory.empty(1 << 18, "i8")
        except MemoryError as error:
            refusal = error
            break
        array[:] = noise(seed)
        pairs.append((seed, array))
    same = all((array == noise(seed)).all() for seed, array in pairs)
    full = memory.stats()
    del pairs[::2], array
    again = memory.empty(1 << 18, "i8")
    again[:] = noise(99)
    same = same and all((array == noise(seed)).all() for seed, array in pairs) and bool((again == noise(99)).all())
say(
    refused=isinstance(refusal, tmem.BudgetError), text=str(refusal), same=same, broken=memory.check(),
    warned=any(w.category is tmem.OvershootWarning for w in seen),
    swap_used=full.swap_used, overshoot=full.overshoot_events, full=full.refused["swap_full"],
)
"""
NOTHING = "def prepare(): pass\n"
FILE_LIMIT = """
def prepare():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
"""
ADDRESS_SPACE = """
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    tmem.Memory("16M", swap=directory, faults=entry)
    say(refused=False)
except tmem.BudgetError as error:
    say(refused=True, text=str(error), left=len(own_files("tmem-stats")))
"""


def _held_everything(child: Any, entry: str, code: str, at_most: int, directory: Path | None = None) -> None:
    ran = child(code + FILL, entry, **({"directory": directory} if directory else {}))
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["same"], told["broken"], told["refused"], told["warned"]) == (True, [], True, True), told
    assert "swap" in told["text"]
    assert 0 < told["swap_used"] <= at_most
    assert told["overshoot"] > 0
    assert told["full"] > 0


def test_swap_device_at_its_cap_loses_nothing_and_takes_again_what_was_freed(child: Any, entry: str) -> None:
    _held_everything(child, entry, NOTHING, 8 << 20)


@pytest.mark.long
def test_file_size_limit_is_a_full_swap_device(child: Any, entry: str) -> None:
    _held_everything(child, entry, FILE_LIMIT, 4 << 20)


@pytest.fixture(params=["ext4", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path, need_root: None) -> Iterator[Path]:  # noqa: ARG001
    """Yield a file system of its own, of about 12 MiB."""
    point, image = tmp_path / "disk", tmp_path / "image"
    point.mkdir()
    if request.param == "tmpfs":
        commands = [["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(point)]]
    else:
        with image.open("wb") as file:
            file.truncate(16 << 20)
        commands = [["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(point)]]
    for command in commands:
        try:
            ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        except FileNotFoundError:
            pytest.skip(f"needs {command[0]}")
        if ran.returncode:
            pytest.skip(f"needs root that may run {' '.join(command)}: {ran.stderr}")
    yield point
    subprocess.run(["umount", point], check=True, timeout=30)


@pytest.mark.root
@pytest.mark.long
def test_full_file_system_is_a_full_swap_device(child: Any, entry: str, small_disk: Path) -> None:
    taken = "def prepare(): open(directory + '/other', 'wb').write(bytes(6 << 20)); os.sync()\n"
    _held_everything(child, entry, taken, 8 << 20, small_disk)


def test_address_space_limit_is_refused_with_its_remedy(child: Any, entry: str) -> None:
    ran = child(ADDRESS_SPACE, entry)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["refused"]
    assert "ulimit -v" in told["text"]
    assert told["left"] == 0
