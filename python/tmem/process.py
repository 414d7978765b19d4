# SPDX-License-Identifier: Apache-2.0
"""stats: what tmem does in this process, all of it, and what it does not reach.

Owns: the sum over every Memory, and the share of NumPy's bytes that is managed. Called by users.
Calls counters, census, numpylimit and the native module.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tmem import _core
from tmem.census import LARGE, NumpyBytes, count_numpy
from tmem.counters import Stats, make_stats
from tmem.errors import ClosedError
from tmem.numpylimit import in_force

__all__ = ["ProcessStats", "stats"]


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """Every Memory of this process, limits included, and the census of NumPy's large arrays. Sizes are bytes."""

    memories: tuple[Stats, ...]  # one for each Memory or limit
    numpy: NumpyBytes  # large arrays: managed or not

    @property
    def ram(self) -> int:
        """All budgets together."""
        return sum(each.ram for each in self.memories)

    @property
    def used(self) -> int:
        """All that counts against them; below its budget a Memory counts with what is mapped."""
        return sum(each.used if each.armed else each.used + each.mapped for each in self.memories)

    @property
    def mapped(self) -> int:
        """The paged arrays alive."""
        return sum(each.mapped for each in self.memories)

    def as_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        numpy = asdict(self.numpy) | {"share": self.numpy.share}
        whole = {"ram": self.ram, "used": self.used, "mapped": self.mapped}
        return whole | {"numpy": numpy, "memories": [each.as_dict() for each in self.memories]}


def stats(*, large: int | None = None) -> ProcessStats:
    """Return what tmem does in this process.

    The census of NumPy's arrays counts those of `large` bytes or more: by default the threshold of the limit in force,
    or 64 KiB. It walks over all objects, so this is for looking, not for loops.
    """
    if large is None:
        limit = in_force()
        large = limit.threshold if limit else LARGE
    memories = []
    for core in _core.memories():
        try:
            memories.append(make_stats(core.stats()))
        except ClosedError:
            continue  # closed, and its last array just went
    return ProcessStats(tuple(memories), count_numpy(large))
