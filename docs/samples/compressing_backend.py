# SPDX-License-Identifier: Apache-2.0
"""A backend that compresses: what frontswap was for, in the standard library."""

import zlib

import tmem


class Compressing(tmem.FrontswapOps):
    """Keeps pages that shrink to 7/8 or less, and refuses the rest."""

    def __init__(self) -> None:
        self._areas: dict[int, dict[int, bytes]] = {}

    def init(self, area: int, pages: int) -> None:
        self._areas.setdefault(area, {})

    def store(self, area: int, page: int, data: memoryview) -> tmem.Outcome | bool:
        if area not in self._areas:
            return tmem.Refused(tmem.Reason.NO_AREA)
        self._areas[area].pop(page, None)  # whatever the answer will be, the old page is gone
        packed = zlib.compress(data, level=1)
        if len(packed) > 3584:
            return tmem.Refused(tmem.Reason.INCOMPRESSIBLE)
        self._areas[area][page] = packed
        return True

    def load(self, area: int, page: int) -> bytes | None:
        packed = self._areas.get(area, {}).get(page)
        return None if packed is None else zlib.decompress(packed)

    def invalidate_page(self, area: int, page: int) -> None:
        self._areas.get(area, {}).pop(page, None)

    def invalidate_area(self, area: int) -> None:
        self._areas.pop(area, None)


if __name__ == "__main__":
    import numpy as np
    from tmem.testing import check_ops

    print("broken laws:", check_ops(Compressing()))
    with tmem.Memory("16M", ops=[Compressing()]) as memory:
        table = memory.zeros((4 << 20,), dtype="i8")  # 32 MiB under a budget of 16
        table[:] = np.arange(table.size)
        print("right:", bool((table == np.arange(table.size)).all()), "packed pages:", memory.stats().store_pages)
        del table
