# SPDX-License-Identifier: Apache-2.0
"""An interpreter without a GIL keeps running without one, and threads at once on the same arrays find their values."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tmem import _core

Run = Callable[[Path, dict[str, Any], float], dict[str, Any]]
WORKER = Path(__file__).with_name("free_threads.py")

pytestmark = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter has a GIL: needs a free-threaded one"
)


def test_importing_tmem_leaves_the_gil_off() -> None:
    code = "import sys, tmem; sys.exit(sys._is_gil_enabled())"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_module_is_not_of_the_limited_api() -> None:
    assert ".abi3." not in Path(_core.__file__ or "").name


def test_threads_at_once_find_their_values(entry: str, run_worker: Run) -> None:
    found = run_worker(WORKER, {"entry": entry, "seconds": 3}, 100)
    assert found["wrong"] == []
    assert found["broken"] == []
    assert found["evictions"] > 0
    assert min(found["rounds"]) > 0
    assert found["gil"] is False
