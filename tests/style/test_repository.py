# SPDX-License-Identifier: Apache-2.0
"""The house rules that a machine can hold: headers, sizes, floors, where unsafe and the native module may appear."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPDX = "SPDX-License-Identifier: Apache-2.0"
RUST = sorted((ROOT / "crates").glob("**/*.rs"))
PRODUCT = sorted((ROOT / "python").glob("**/*.py"))
BESIDE = ("tests", "benches", "tools", "docs/samples")
PYTHON = [*PRODUCT, *(path for name in BESIDE for path in sorted((ROOT / name).glob("**/*.py")))]
NATIVE_USERS = {
    "__init__",
    "backendprocess",
    "backends",
    "cache",
    "census",
    "counters",
    "doctor",
    "frontswap",
    "guest",
    "host",
    "launch",
    "memory",
    "numpylimit",
    "pool",
    "process",
    "saving",
    "steering",
    "walk",
}
UNSAFE_CRATES = {"tmem-sys", "tmem-py", "tmem-preload"}
SAFE_CRATES = {"tmem-store", "tmem-guest", "tmem-pager"}
FLOORS = ("tmem-sys", "tmem-store", "tmem-guest", "tmem-pager", "tmem-preload", "tmem-py")
FLOWS = ("page-fault", "eviction", "lease")

RUST_LINES, PYTHON_LINES, TEST_LINES = 450, 350, 500
RUST_FUNCTION, PYTHON_FUNCTION = 70, 60


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*RUST, *PYTHON, ROOT / "setup.py", ROOT / "Makefile"], ids=_name)
def test_source_opens_with_its_licence(path: Path) -> None:
    opening = path.read_text(encoding="utf-8").splitlines()[:2]
    assert any(SPDX in line for line in opening)


@pytest.mark.parametrize("path", RUST, ids=_name)
def test_rust_file_says_what_it_owns(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if "src" in path.parts:
        assert lines[1].startswith("//!")
    assert len(lines) <= (TEST_LINES if "tests" in path.parts else RUST_LINES)


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_python_file_is_one_thing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    limit = TEST_LINES if "tests" in path.parts else PYTHON_LINES
    assert len(text.splitlines()) <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= PYTHON_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", RUST, ids=_name)
def test_rust_functions_are_short(path: Path) -> None:
    for name, length in _rust_functions(path.read_text(encoding="utf-8").splitlines()):
        assert length <= RUST_FUNCTION, f"{name} has {length} lines"


def _rust_functions(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Yield (name, lines) of each function, as rustfmt lays them out: it ends with a brace in its own column."""
    for number, line in enumerate(lines):
        match = re.match(r"( *)(?:pub(?:\([a-z]+\))? )?(?:const |unsafe |extern \"C\" )*fn (\w+)", line)
        if match is None or line.rstrip().endswith((";", "}")):
            continue
        close = f"{match[1]}}}"
        end = next((at for at in range(number, len(lines)) if lines[at].startswith(close)), number)
        yield match[2], end - number + 1


@pytest.mark.parametrize("crate", sorted(SAFE_CRATES))
def test_safe_crates_forbid_unsafe(crate: str) -> None:
    assert "#![forbid(unsafe_code)]" in (ROOT / "crates" / crate / "src/lib.rs").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RUST, ids=_name)
def test_unsafe_stays_at_the_kernel_edge(path: Path) -> None:
    code = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
    if path.relative_to(ROOT / "crates").parts[0] not in UNSAFE_CRATES:
        assert not re.search(r"\bunsafe (\{|fn|impl|extern)", code)


@pytest.mark.parametrize("crate", FLOORS)
def test_crates_depend_downward_only(crate: str) -> None:
    manifest = tomllib.loads((ROOT / "crates" / crate / "Cargo.toml").read_text(encoding="utf-8"))
    above = set(FLOORS[FLOORS.index(crate) :])
    assert not above & set(manifest.get("dependencies", {}))


@pytest.mark.parametrize("path", PRODUCT, ids=_name)
def test_only_named_modules_use_the_native_one(path: Path) -> None:
    used = False
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            used |= module.startswith("tmem._core") or (
                module == "tmem" and any(alias.name == "_core" for alias in node.names)
            )
        elif isinstance(node, ast.Import):
            used |= any(alias.name.startswith("tmem._core") for alias in node.names)
    assert not used or path.stem in NATIVE_USERS


@pytest.mark.parametrize("flow", FLOWS)
def test_each_flow_has_its_page_and_names_real_files(flow: str) -> None:
    text = (ROOT / "docs/explanation" / f"{flow}.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:crates|python)/[\w./-]+\.(?:rs|py))`", text)
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_no_number_is_left_open_in_the_readme() -> None:
    assert "NUMBERS" not in (ROOT / "README.md").read_text(encoding="utf-8")
