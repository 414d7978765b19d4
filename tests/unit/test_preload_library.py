# SPDX-License-Identifier: Apache-2.0
"""What the library that `tmem run` loads into programs binds to, and what it leaves to them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import tmem

FOUND = sorted(Path(tmem.__file__).parent.glob("_preload*.so"))

# What enters the C library's heap, and what makes threads through it.
HEAP = {
    *("malloc", "calloc", "realloc", "reallocarray", "free", "cfree", "posix_memalign", "aligned_alloc", "memalign"),
    *("valloc", "pvalloc", "malloc_usable_size", "malloc_trim", "mallopt", "strdup", "strndup", "asprintf", "getline"),
    *("qsort", "qsort_r", "fopen", "fopen64", "fdopen", "getaddrinfo", "dlopen", "pthread_create", "sem_open"),
}
# Thread-local variables of a loaded library: the standard library's, for panics, and the checks that a caller asks for.
WITH_VARIABLES = re.compile(r"\b(std|core|alloc)::|::check\b|^__tls_get_addr")


def _run(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} here")
    if not FOUND:
        pytest.skip("the library is not built: make build")
    command = [tool, *arguments, str(FOUND[0])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _symbols() -> dict[str, bool]:
    """The names in the table that the loader sees, and whether each is defined here."""
    rows = [line.split() for line in _run("readelf", "-W", "--dyn-syms").splitlines()]
    named = [row for row in rows if len(row) >= 8 and row[0].rstrip(":").isdigit()]
    return {row[7].split("@")[0]: row[6] != "UND" for row in named}


def test_one_library_is_shipped() -> None:
    assert len(FOUND) <= 1
    assert "libc.so.6" in _run("readelf", "-d")


def test_it_never_enters_the_heap_of_the_c_library() -> None:
    taken = {name for name, here in _symbols().items() if not here}
    assert "memcpy" in taken, "the table was read"
    assert taken & HEAP == set()


def test_it_exports_nothing_that_a_program_could_be_bound_to() -> None:
    assert {name for name, here in _symbols().items() if here} == set()


def test_it_brings_no_other_library_into_a_program() -> None:
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", _run("readelf", "-W", "-d")))
    assert needed <= {"libc.so.6", "ld-linux-x86-64.so.2"}


def test_only_panics_and_checks_use_thread_local_variables() -> None:
    """The pager's own threads have none: see the threads of `tmem-sys`."""
    code = _run("objdump", "-d", "-C", "--no-show-raw-insn")
    users, function = set(), ""
    for line in code.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = match[1]
        elif "__tls_get_addr" in line:
            users.add(function)
    assert users, "the code was read"
    assert {user for user in users if not WITH_VARIABLES.search(user)} == set()
