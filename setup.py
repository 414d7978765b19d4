# SPDX-License-Identifier: Apache-2.0
"""What depends on the interpreter or stands elsewhere: the native module and library, the wheel's tag, the version.

The version's single source is Cargo.toml; the rest is in pyproject.toml.
"""

import sysconfig
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools_rust import Binding, RustExtension

_CARGO = tomllib.loads((Path(__file__).parent / "Cargo.toml").read_text(encoding="utf-8"))
# One module for every interpreter from 3.11 on; a free-threaded one has no limited API, and gets a module of its own.
_ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    version=_CARGO["workspace"]["package"]["version"],
    rust_extensions=[
        RustExtension(
            "tmem._core",
            path="crates/tmem-py/Cargo.toml",
            binding=Binding.PyO3,
            py_limited_api=_ABI3,
            debug=False,  # always release: the path of a page is hot in every installation, editable ones too
        ),
        # No module: what `tmem run` loads into programs. It knows no Python, and lies in the package beside the module.
        RustExtension(
            "tmem._preload",
            path="crates/tmem-preload/Cargo.toml",
            binding=Binding.NoBinding,
            py_limited_api=_ABI3,
            debug=False,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if _ABI3 else {},
)
