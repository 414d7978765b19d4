# SPDX-License-Identifier: Apache-2.0
"""The page of the laws names tests that exist, and leaves no law out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/explanation/laws.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\d+)\. (.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))
NAMED = re.findall(r"`([\w./-]+)::(\w+)`", TEXT)
LAWS = 19


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda value: value.rsplit("/", 1)[-1])
def test_each_test_that_a_law_names_exists(path: str, name: str) -> None:
    assert re.search(rf"\b(?:fn|def) {name}\(", (ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("law", SECTIONS)
def test_each_law_names_a_test(law: str) -> None:
    assert re.search(r"^- `[\w./-]+::\w+`$", SECTIONS[law], re.MULTILINE)


def test_every_law_has_its_section() -> None:
    assert [int(number) for number in SECTIONS] == list(range(1, LAWS + 1))
