# SPDX-License-Identifier: Apache-2.0
"""Read the version from Cargo.toml, its single source, and tag wheels as abi3; the rest is in pyproject.toml."""

import tomllib
from pathlib import Path

from setuptools import setup

_CARGO = tomllib.loads((Path(__file__).parent / "Cargo.toml").read_text(encoding="utf-8"))

setup(
    version=_CARGO["workspace"]["package"]["version"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
