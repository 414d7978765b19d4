# SPDX-License-Identifier: Apache-2.0
"""A disk that fails below the swap device (laws 12 and 14): full, dying, gone.

A write that fails leaves the page where it is, is counted and told, and is tried again later; a read that fails ends
the process with a report.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
SHUTDOWN = 0x8004587D  # of ext4: from now on every read and write is an input/output error
BEGINNING = """
memory = tmem.Memory("16M", swap=(directory, "20M"), faults=entry)
pairs, refusal = [], None

def fill(count):
    global refusal
    for _ in range(count):
        try:
            array = memory.empty(1 << 18, "i8")
        except MemoryError as error:
            refusal = error
            return
        array[:] = noise(len(pairs))
        pairs.append((len(pairs), array))

def sound():
    return all(bool((array == noise(seed)).all()) for seed, array in pairs)

def tell(**more):
    stats = memory.stats()  # which passes on what there is to warn of
    say(
        swap_used=stats.swap_used, swap_pages=stats.swap_pages, swap_file=stats.swap_file, broken=memory.check(),
        full=stats.refused["swap_full"], failed=stats.refused["swap_error"], overshoot=stats.overshoot_events,
        refused=isinstance(refusal, tmem.BudgetError), warned=" ".join(str(w.message) for w in seen), **more,
    )
    sys.stdin.readline()

seen = warnings.catch_warnings(record=True).__enter__()
warnings.simplefilter("always")
fill(10)
tell()
"""
SPOILT = "fill(40); tell(same=sound())\n"
UNREAD = "fill(40); tell()\n"
READ = "say(same=sound())\n"
MENDED = """
before = memory.stats().swap_used
for _ in range(60):
    if not sound():
        break
    fill(1)
    if memory.stats().swap_used > before + (1 << 20):
        break
tell(same=sound(), grew=memory.stats().swap_used - before)
"""
GONE = """
os.rmdir(directory)
fill(6)
pid = os.fork()
if pid == 0:
    for _, array in pairs:
        array += 1
    right = all(bool((array == noise(seed) + 1).all()) for seed, array in pairs)
    stats = memory.stats()
    told = any("swap device failed" in str(w.message) for w in seen)
    os._exit(0 if right and told and stats.refused["swap_error"] > 0 else 1)
tell(same=sound(), child=os.waitpid(pid, 0)[1])
"""


@dataclass
class Disk:
    """A file system of its own; `image` is what is below it, if that is a file, and `tight` where room can be taken."""

    point: Path
    image: Path
    tight: Path

    def take_room(self, but: int = 0) -> None:
        """Fill the disk up to so many bytes."""
        with self.tight.open("wb") as file:
            at, chunk = 0, MIB
            while chunk >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), at, chunk)
                    at += chunk
                except OSError:
                    chunk //= 2
            file.truncate(at - but)

    def make_room(self) -> None:
        self.tight.unlink()


def _run(*command: str | Path) -> None:
    try:
        ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip(f"needs {command[0]}")
    if ran.returncode:
        pytest.skip(f"needs root that may run {' '.join(map(str, command))}: {ran.stderr}")


def _mount(stack: ExitStack, point: Path, *arguments: str | Path) -> Path:
    point.mkdir()
    _run("mount", *arguments, point)
    stack.callback(lambda: subprocess.run(["umount", point], check=True, timeout=30))
    return point


def _ext4(stack: ExitStack, image: Path, point: Path) -> Path:
    with image.open("wb") as file:
        file.truncate(40 * MIB)
    # No journal, whose writes would fail too; tables written now, not when the room is gone.
    _run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", image)
    return _mount(stack, point, "-o", "loop", image)


@pytest.fixture
def disks(tmp_path: Path, need_root: None) -> Iterator[Callable[[str], Disk]]:  # noqa: ARG001
    """Make a file system of 40 MiB, on a disk that has room for it or has not; it is gone after the test."""
    with ExitStack() as stack:

        def make(kind: str) -> Disk:
            point, image = tmp_path / "disk", tmp_path / "image"
            if kind == "ext4":
                _ext4(stack, image, point)
            else:
                below = _mount(stack, tmp_path / "below", "-t", "tmpfs", "-o", "size=30m", "none")
                image = below / "image"
                return Disk(_ext4(stack, image, point), image, below / "other")
            return Disk(point, image, point / "other")

        yield make


def _told(process: subprocess.Popen[str], *, go_on: bool = False) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    if go_on:
        process.stdin.write("go\n")
        process.stdin.flush()
    line = process.stdout.readline()
    assert line, process.communicate(timeout=60)[1]
    told: dict[str, Any] = json.loads(line)
    return told


@pytest.mark.root
def test_full_disk_keeps_every_page_and_goes_on_once_there_is_room(
    start: Any, entry: str, disks: Callable[[str], Disk]
) -> None:
    disk = disks("ext4")
    with start(BEGINNING + SPOILT + MENDED, entry, disk.point) as process:
        try:
            begun = _told(process)
            assert begun["swap_used"] > 0
            disk.take_room()
            full = _told(process, go_on=True)
            assert (full["same"], full["broken"], full["refused"]) == (True, [], True), full
            assert full["full"] > 0
            assert full["failed"] == 0
            assert full["overshoot"] > 0
            assert full["swap_used"] < 20 * MIB
            assert "the swap device is full: " in full["warned"]
            disk.make_room()
            after = _told(process, go_on=True)
            assert (after["same"], after["broken"]) == (True, []), after
            assert after["grew"] > MIB
            assert process.communicate("end\n", timeout=60)[1].count("fatal") == 0
        finally:
            process.kill()
    assert process.returncode == 0


@pytest.mark.root
def test_disk_that_loses_what_it_took_never_gives_other_bytes(
    start: Any, entry: str, disks: Callable[[str], Disk]
) -> None:
    # Below is room for a part of a write: loop devices were seen to say of such a one that it was done.
    disk = disks("ext4 on a disk that is full")
    with start(BEGINNING + SPOILT, entry, disk.point) as process:
        try:
            assert _told(process)["swap_used"] > 0
            disk.take_room(but=30 * 4096)
            out, err = process.communicate("go\ngo\n", timeout=60)
        finally:
            process.kill()
    if process.returncode:
        _ended(process, out, err, "came back changed: its checksum does not match (law 12)")
    else:
        told = json.loads(out)
        assert (told["same"], told["broken"]) == (True, [])
        assert told["full"] + told["failed"] > 0


@pytest.mark.root
def test_failing_disk_keeps_new_pages_and_ends_who_reads_an_old_one(
    start: Any, entry: str, disks: Callable[[str], Disk]
) -> None:
    disk = disks("ext4")
    with start(BEGINNING + UNREAD + READ, entry, disk.point) as process:
        try:
            assert _told(process)["swap_used"] > 0
            directory = os.open(disk.point, os.O_RDONLY)
            try:
                fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", 2))
            except OSError as error:
                pytest.skip(f"needs an ext4 that can be shut down: {error}")
            finally:
                os.close(directory)
            failing = _told(process, go_on=True)
            assert failing["failed"] > 0
            assert failing["refused"]
            assert failing["broken"] == []
            assert "writing to the swap device failed: the pages stay resident. Check the disk" in failing["warned"]
            out, err = process.communicate("go\n", timeout=60)
        finally:
            process.kill()
    _ended(process, out, err, "cannot be read back: input/output error or a truncated file (law 12)")


@pytest.mark.root
def test_disk_that_cannot_be_read_ends_the_process_with_a_report(
    start: Any, entry: str, disks: Callable[[str], Disk]
) -> None:
    disk = disks("ext4")
    with start(BEGINNING + READ, entry, disk.point) as process:
        try:
            assert _told(process)["swap_used"] > 0
            os.truncate(disk.image, 64 << 10)
            out, err = process.communicate("go\n", timeout=60)
        finally:
            process.kill()
    # What the loop device makes of the missing part is an error, or zeros.
    words = "input/output error" if "input/output error" in err else "its checksum does not match (law 12)"
    _ended(process, out, err, words)


def _ended(process: subprocess.Popen[str], out: str, err: str, words: str) -> None:
    assert process.returncode == -signal.SIGABRT, err
    assert "tmem: fatal: a page on the swap device" in err
    assert words in err
    assert out == ""


def test_deleted_directory_costs_no_page(start: Any, entry: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with start(BEGINNING + GONE, entry, place) as process:
        try:
            assert _told(process)["swap_used"] > 0
            gone = _told(process, go_on=True)
            assert (gone["same"], gone["broken"], gone["child"]) == (True, [], 0), gone
            assert process.communicate("end\n", timeout=60)[1].count("fatal") == 0
        finally:
            process.kill()
