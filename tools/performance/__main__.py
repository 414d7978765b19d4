# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of measured figures: `python -m tools.performance`."""

from __future__ import annotations

from tools.performance import PAGES, read, written

if __name__ == "__main__":
    rows = read()
    for page in PAGES:
        page.write_text(written(page.read_text(encoding="utf-8"), rows), encoding="utf-8")
