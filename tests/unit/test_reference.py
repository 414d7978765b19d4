# SPDX-License-Identifier: Apache-2.0
"""The committed reference is what the source says now; its maker forgets nothing and shows nothing private."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import tmem
from tools.reference import pages

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/reference"


def test_reference_is_up_to_date() -> None:
    command = [sys.executable, "-m", "tools.reference", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.md"))
    names = [name for name in tmem.__all__ if not name.startswith("_")]
    assert [name for name in names if f"## {name}\n" not in text and f"`tmem.{name}` is" not in text] == []


def test_no_private_name_is_in_the_reference() -> None:
    for path in REFERENCE.glob("*.md"):
        lines = path.read_text(encoding="utf-8").splitlines()
        headings = [line for line in lines if line.startswith("#")]
        assert [line for line in headings if " _" in line or "._" in line.replace(".__", ".")] == []


def _package(home: Path, **modules: str) -> Path:
    for name, source in modules.items():
        (home / f"{name}.py").write_text(dedent(source), encoding="utf-8")
    return home


def test_a_public_name_without_a_page_is_an_error(tmp_path: Path) -> None:
    package = _package(tmp_path, __init__='from tmem.strange import new\n__all__ = ["new"]\n')
    with pytest.raises(LookupError, match=r"tmem\.strange"):
        pages.make_pages(package)


def test_pages_have_what_is_public_and_explain_its_words(tmp_path: Path) -> None:
    memory = """
        _A = TypeVar("_A", bound=Array)
        Array = NDArray[Any]
        \"\"\"Any array.\"\"\"

        class Memory:
            \"\"\"RAM.\"\"\"

            def __init__(self, ram: int, *, swap: str = "auto") -> None: ...
            @contextmanager
            def pin(self, array: _A) -> Iterator[_A]:
                \"\"\"Keep it.\"\"\"
            @property
            def name(self) -> str:
                \"\"\"The name.\"\"\"
            def _secret(self) -> None: ...
    """
    package = _package(tmp_path, __init__='from tmem.memory import Memory\n__all__ = ["Memory"]\n', memory=memory)
    (tmp_path / "testing").mkdir()
    keep = 'class Keep:\n    """Keeps."""\n    count: int = 0  # how many\n'
    _package(tmp_path / "testing", __init__='from tmem.testing.keep import Keep\n__all__ = ["Keep"]\n', keep=keep)
    made = pages.make_pages(package)
    assert set(made) == {"memory.md", "frontswap.md"}
    assert 'class tmem.Memory(ram: int, *, swap: str = "auto")' in made["memory.md"]
    assert "@contextmanager\npin(array: Array) -> Iterator[Array]" in made["memory.md"]
    assert "| `name` | `str` | The name. |" in made["memory.md"]
    assert "| `Array` | `NDArray[Any]` | Any array. |" in made["memory.md"]
    assert "secret" not in made["memory.md"]
    assert "class tmem.testing.Keep" in made["frontswap.md"]
    assert "| `count` | `int` | how many |" in made["frontswap.md"]
