# SPDX-License-Identifier: Apache-2.0
"""`import tmem` imports nothing slow, and still has every public name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tmem

SOURCE = Path(tmem.__file__).read_text(encoding="utf-8")
SLOW = {"numpy", "rich", "argparse", "re", "dataclasses", "pathlib", "typing", "enum", "json", "signal", "tomllib"}

UP_TO_EXEC = """
import os
from tmem import launch
from tmem.cli.main import main
def execve(*_):
    raise PermissionError(13, "no")
os.execve = execve
launch.preload_object = lambda: "/x.so"
assert main(["run", "--ram", "16M", "--", "true"]) == 126
"""


def _modules(code: str, where: Path | None = None) -> set[str]:
    """Return what a new interpreter has imported at the end of `code`, beyond what it begins with."""
    found = []
    for work in ("", code):
        program = f"import sys\n{work}\nprint(*sys.modules, file=sys.stderr)"
        ran = subprocess.run([sys.executable, "-c", program], cwd=where, capture_output=True, text=True, check=True)
        found.append(set(ran.stderr.split()))
    return found[1] - found[0]


def test_the_table_is_what_the_type_checker_sees() -> None:
    seen = {
        alias.name: (node.module or "").removeprefix("tmem.")
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tmem.")
        for alias in node.names
    }
    told = {name: home for home, names in tmem._HOMES.items() for name in names}
    assert told == seen
    assert set(told) == set(tmem.__all__)


def test_every_public_name_is_there_and_listed() -> None:
    assert [name for name in tmem.__all__ if not hasattr(tmem, name) or name not in dir(tmem)] == []


def test_a_module_of_the_package_is_an_attribute_too() -> None:
    code = "import tmem; print(tmem.errors.TmemError, tmem.memory.MINIMUM_RAM, file=sys.stdout)"
    assert "tmem.memory" in _modules(code)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        tmem.nonsense  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(ImportError):
        from tmem import nonsense  # type: ignore[attr-defined] # noqa: F401, PLC0415


@pytest.mark.parametrize(
    "code",
    [
        "import tmem",
        "from tmem.cli.main import main",
        "from tmem.cli.main import main; main(['run', '--show-config'])",
        UP_TO_EXEC,
    ],
    ids=["import", "main", "show-config", "run"],
)
def test_what_tmem_run_begins_with_is_quick_to_import(code: str, tmp_path: Path) -> None:
    assert _modules(code, tmp_path) & SLOW == set()


def test_a_verb_imports_no_other() -> None:
    loaded = _modules("from tmem.cli.main import main; main(['stats', '--json'])")
    assert "tmem.cli.stats" in loaded
    assert {"tmem.cli.bench", "tmem.cli.demo", "tmem.cli.doctor"} & loaded == set()
