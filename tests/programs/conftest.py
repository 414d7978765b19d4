# SPDX-License-Identifier: Apache-2.0
"""Programs under `tmem run`, with the fault entries that this machine permits.

A test that needs a program which is not installed is skipped, and names the package to install. Where the kernel
permits no fault entry, everything here is skipped with the kernel's reason: `tmem run` refuses such a machine by
name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import refusal
from tests.programs.tmemrun import Under


def _permitted(faults: str) -> None:
    reasons = {entry: refusal(entry) for entry in ("signal", "thread")}
    wanted = list(reasons) if faults == "auto" else [faults]
    if all(reasons[entry] for entry in wanted):
        pytest.skip("; ".join(f"the {entry} entry cannot be used here: {reasons[entry]}" for entry in wanted))


@pytest.fixture
def under(tmp_path: Path) -> Under:
    """`tmem run` with the fault entry that it chooses by itself."""
    _permitted("auto")
    return Under(tmp_path)


@pytest.fixture
def under_with(tmp_path: Path) -> Callable[[str], Under]:
    """`tmem run` with the fault entry that is asked for; skips where that one is not permitted."""

    def make(faults: str) -> Under:
        _permitted(faults)
        return Under(tmp_path, faults)

    return make
