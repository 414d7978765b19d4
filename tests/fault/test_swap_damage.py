# SPDX-License-Identifier: Apache-2.0
"""A damaged swap file (law 12): the process ends with a report that names the cause, and never sees other bytes.

The file has no name, so the parent reaches it through the child's descriptor.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = 4096
CHANGED = "a page on the swap device came back changed: its checksum does not match (law 12)"
UNREADABLE = "a page on the swap device cannot be read back: input/output error or a truncated file (law 12)"
OUT = """
memory = tmem.Memory("16M", swap=directory, faults=entry)
array = memory.empty(3 << 20, "i8")
array[:] = np.tile(noise(1), 12)[: array.size]
memory.evict(array)
say(swap_used=memory.stats().swap_used)
sys.stdin.readline()
say(same=bool((array == np.tile(noise(1), 12)[: array.size]).all()))
"""
REUSED = """
memory = tmem.Memory("16M", swap=directory, faults=entry)
swap_file, = own_files(directory + "/")
os.close(swap_file)
mine = os.open(directory + "/mine", os.O_RDWR | os.O_CREAT)
os.dup2(mine, swap_file)
os.pwrite(mine, bytes(range(256)) * 4096, 0)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    kept = []
    try:
        for seed in range(16):
            array = memory.empty(1 << 18, "i8")
            array[:] = noise(seed)
            kept.append((array, seed))
    except tmem.BudgetError:
        memory.stats()  # which passes on what there is to warn of
same = all((array == noise(seed)).all() for array, seed in kept)
say(
    same=bool(same), mine=os.pread(mine, 1 << 20, 0) == bytes(range(256)) * 4096, size=os.fstat(mine).st_size,
    warned=any("swap device failed" in str(w.message) for w in seen), made=len(kept),
)
"""


def _change_a_byte_of_every_page(path: str) -> None:
    with Path(path).open("r+b", buffering=0) as file:
        for at in range(0, os.fstat(file.fileno()).st_size, PAGE):
            file.seek(at + 77)
            byte = file.read(1)
            file.seek(at + 77)
            file.write(bytes([byte[0] ^ 1]))


def _change_one_bit(path: str) -> None:
    with Path(path).open("r+b", buffering=0) as file:
        at = os.fstat(file.fileno()).st_size // 2 + 1234
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 16]), at)


def _exchange_two_pages(path: str) -> None:
    with Path(path).open("r+b", buffering=0) as file:
        first, second = (os.pread(file.fileno(), PAGE, at * PAGE) for at in (10, 20))
        os.pwrite(file.fileno(), second, 10 * PAGE)
        os.pwrite(file.fileno(), first, 20 * PAGE)


def _cut(path: str) -> None:
    os.truncate(path, 5 * PAGE)


def _empty(path: str) -> None:
    os.truncate(path, 0)


def _swap_file(pid: int, directory: Path) -> str:
    names = list(Path(f"/proc/{pid}/fd").iterdir())
    return next(str(name) for name in names if str(name.readlink()).startswith(f"{directory}/"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_change_a_byte_of_every_page, CHANGED),
        (_change_one_bit, CHANGED),
        (_exchange_two_pages, CHANGED),
        (_cut, UNREADABLE),
        (_empty, UNREADABLE),
    ],
    ids=["changed", "one bit", "exchanged", "truncated", "emptied"],
)
def test_damaged_swap_file_ends_the_process_with_a_report(
    start: Any, entry: str, tmp_path: Path, damage: Callable[[str], None], words: str
) -> None:
    with start(OUT, entry) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["swap_used"] > 0
            damage(_swap_file(process.pid, tmp_path))
            out, err = process.communicate("go\n", timeout=60)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGABRT, err
    assert "tmem: fatal: " in err
    assert words in err
    assert out == ""


@pytest.mark.long
def test_undamaged_swap_file_gives_the_pages_back(start: Any, entry: str) -> None:
    with start(OUT, entry) as process:
        out, err = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[1])["same"] is True


def test_reused_number_of_the_swap_file_costs_no_other_file_its_bytes(child: Any, entry: str) -> None:
    ran = child(REUSED, entry)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["made"] > 2
    assert told == {"same": True, "mine": True, "size": 1 << 20, "warned": True, "made": told["made"]}
