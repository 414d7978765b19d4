# SPDX-License-Identifier: Apache-2.0
"""A backend that breaks a law, and what is said of it."""

import zlib

import tmem
from compressing_backend import Compressing
from tmem.testing import check_ops


class Forgetful(Compressing):
    def store(self, area: int, page: int, data: memoryview) -> tmem.Outcome | bool:
        packed = zlib.compress(data, level=1)
        if area not in self._areas or len(packed) > 3584:
            return False  # and what was there before?
        self._areas[area][page] = packed
        return True


print(*check_ops(Forgetful()), sep="\n")
