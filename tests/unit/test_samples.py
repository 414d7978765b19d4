# SPDX-License-Identifier: Apache-2.0
"""What the pages show is what runs: their Python is part of a sample, and what they show as printed is printed.

A `python` block of the README, the tutorial or a how-to is found, line for line, in a file of docs/samples. A block
under `<!-- printed by NAME.py -->` is part of what that sample prints, but for the figures, which vary. A line of a
`console` block that begins with `$ tmem` is run as typed. Samples of memory on lease find a daemon of their own.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.daemonprocess import Daemon
from tmem.doctor import examine

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs/tutorial").glob("*.md")),
    *sorted((ROOT / "docs/how-to").glob("*.md")),
]
EVERY_PAGE = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "benches").glob("*.md")})
SAMPLES = sorted((ROOT / "docs/samples").glob("*.py"))
BLOCK = re.compile(
    r"(?:^<!-- printed by (?P<by>\S+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SECONDS = 100
GUESTS = {"leases", "readme_host"}


def _blocks(kind: str) -> list[tuple[str, str]]:
    """Return (page and line, text) of each block of that kind."""
    return [
        (f"{page.name}:{text[: match.start()].count(chr(10)) + 1}", match["text"])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for match in BLOCK.finditer(text)
        if match["kind"] == kind
    ]


def _printed() -> list[tuple[str, str, str]]:
    return [
        (page.name, match["by"], match["text"])
        for page in PAGES
        for match in BLOCK.finditer(page.read_text(encoding="utf-8"))
        if match["by"]
    ]


def _commands() -> list[str]:
    lines = [line for _, text in _blocks("console") for line in text.splitlines()]
    return sorted({line.removeprefix("$ ") for line in lines if line.startswith("$ tmem ")})


def _need_paging() -> None:
    report = examine()
    if not report.entry:
        pytest.skip(f"arrays cannot be paged here: {next(item.what for item in report.findings if not item.ok)}")


def _environment(home: str) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    path = f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {"PATH": path, "PYTHONWARNINGS": "error", "TMPDIR": home}


@contextmanager
def _surroundings(sample: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield a directory and an environment for a sample; of those that are guests, with a daemon."""
    with tempfile.TemporaryDirectory() as home:
        if sample.stem not in GUESTS:
            yield home, _environment(home)
            return
        with Daemon(Path(home), "--capacity", "128M", "--extent", "1M") as daemon:
            yield home, _environment(home) | {"TMEM_HOST": str(daemon.path)}


@functools.cache
def _output(sample: Path) -> str:
    """Run a sample in a directory of its own; return what it prints. Skips where a module it imports is missing."""
    _need_paging()
    tree = ast.parse(sample.read_text(encoding="utf-8"))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    taken = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    beside = {path.stem for path in SAMPLES}
    for name in sorted({name.partition(".")[0] for name in plain | taken} - beside):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{sample.name} needs {name}")
    with _surroundings(sample) as (home, env):
        command = [sys.executable, "-X", "faulthandler", str(sample)]
        done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{sample.name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr  # of exceptions in threads, and of what became of objects
    return done.stdout


def _without_figures(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*(e[+-]?\d+)?", "#", line)).strip()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sample_runs(sample: Path) -> None:
    _output(sample)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_shown_by_a_page(sample: Path) -> None:
    assert any(text in sample.read_text(encoding="utf-8") for _, text in _blocks("python"))


@pytest.mark.parametrize(("where", "text"), _blocks("python"))
def test_python_of_a_page_is_part_of_a_sample(where: str, text: str) -> None:
    assert any(f"\n{text}" in "\n" + sample.read_text(encoding="utf-8") for sample in SAMPLES), (
        f"{where} is in no sample"
    )


@pytest.mark.parametrize(("page", "by", "text"), _printed())
def test_output_on_a_page_is_what_its_sample_prints(page: str, by: str, text: str) -> None:
    printed = [_without_figures(line) for line in _output(ROOT / "docs/samples" / by).splitlines()]
    shown = [_without_figures(line) for line in text.splitlines()]
    starts = range(len(printed) - len(shown) + 1)
    assert any(printed[at : at + len(shown)] == shown for at in starts), f"{page} shows what {by} does not print"


@pytest.mark.parametrize("command", _commands())
def test_command_on_a_page_works(command: str, tmp_path: Path) -> None:
    _need_paging()
    done = subprocess.run(
        shlex.split(command), cwd=tmp_path, env=_environment(str(tmp_path)), capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


def _anchors(page: Path) -> set[str]:
    """Return what a link may name after `#`: each heading, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link
