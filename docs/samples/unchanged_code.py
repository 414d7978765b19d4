# SPDX-License-Identifier: Apache-2.0
"""Code that knows nothing of tmem, under a budget; and what escapes it. The second half of the tutorial."""

import pickle

import numpy as np

import tmem


def heavy() -> float:
    """Sum squares the wasteful way: three arrays of 32 MiB at once."""
    a = np.random.default_rng(1).integers(0, 100, 4 << 20)
    b = a.astype("f8")
    c = b * b
    return float(c.sum())


plain = heavy()

with tmem.limit("32M", swap="1G") as budget:
    paged = heavy()

print("the same result:", paged == plain)
print(budget.blocks())
print(f"the budget was overshot {budget.stats().overshoot_events} times")

with budget:
    kept = np.ones(4 << 20)  # 32 MiB, made by NumPy: paged
    copy = pickle.loads(pickle.dumps(np.arange(2 << 20)))  # 16 MiB that pickle brings along
    seen = np.frombuffer(bytes(8 << 20), dtype="u1")  # 8 MiB that belong to a bytes object
    numpy = tmem.stats().numpy

print(f"managed {numpy.managed >> 20} MiB, escaped {numpy.escaped >> 20} MiB, {numpy.share:.0%} of it managed")
print("who owns what escaped:", {owner: f"{count >> 20} MiB" for owner, count in numpy.by_owner.items()})
print(tmem.is_paged(kept), tmem.is_paged(copy), tmem.is_paged(seen))

del kept
