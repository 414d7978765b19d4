# SPDX-License-Identifier: Apache-2.0
"""A program that drops pages of an array itself (madvise): refused, or zeros as on plain memory; no thread hangs."""

from __future__ import annotations

import json
from typing import Any

DROP = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
memory = tmem.Memory("16M", swap=directory, faults=entry)
array = memory.empty(3 << 20, "i8")
array[:] = np.arange(1, array.size + 1)
memory.prefetch(array[:8192])
dropped = libc.madvise(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(8192), 4) == 0  # MADV_DONTNEED
first, rest = int(array[:1024].sum()), array[1024:]
same = bool((rest == np.arange(1025, array.size + 1)).all())
memory.evict(array)
array[:1024] += 1
say(dropped=dropped, first=first, again=int(array[:1024].sum()), same=same, broken=memory.check())
"""


def test_pages_that_the_program_drops_are_zeros_or_stay(child: Any, entry: str) -> None:
    ran = child(DROP, entry)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    first = 0 if told["dropped"] else sum(range(1, 1025))
    assert told == {"dropped": told["dropped"], "first": first, "again": first + 1024, "same": True, "broken": []}
