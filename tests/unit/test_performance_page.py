# SPDX-License-Identifier: Apache-2.0
"""The measured tables of the pages are those of the committed result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import performance


@pytest.mark.parametrize("page", performance.PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_committed_result(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<!-- measured: " in text
    assert performance.written(text, performance.read()) == text, "run: python -m tools.performance"


def test_a_table_without_its_rows_shows_dashes() -> None:
    nothing = performance.Rows({"machine": {"cpu": "none"}, "rows": []})
    assert "| fill | - | - | 5 | 3 |" in performance.overall(nothing)
    assert performance.short(nothing).count("\n") == 6
