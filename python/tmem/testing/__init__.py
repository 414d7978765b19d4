# SPDX-License-Identifier: Apache-2.0
"""Whether a backend keeps the laws: for the authors of backends and for tmem's own tests."""

from tmem.testing.check import check_ops
from tmem.testing.pages import Pages
from tmem.testing.trial import Trial

__all__ = ["Pages", "Trial", "check_ops"]
