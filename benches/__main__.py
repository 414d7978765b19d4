# SPDX-License-Identifier: Apache-2.0
"""`python -m benches`: every measurement, each with its defaults, one after another."""

from __future__ import annotations

import subprocess
import sys

from benches import machine

ALL = (
    "age_and_tier",
    "cold",
    "kernel_edge",
    "packers",
    "put_get_vs_memcpy",
    "pool_vs_memcpy",
    "host_scaling",
    "cache",
    "python_backend",
    "unchanged_code",
    "no_pressure",
    "programs",
)

if __name__ == "__main__":
    codes = [
        subprocess.run(
            [sys.executable, "-m", f"benches.{name}", *sys.argv[1:]], cwd=machine.ROOT, check=False
        ).returncode
        for name in ALL
    ]
    sys.exit(max(codes))
