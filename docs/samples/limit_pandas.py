# SPDX-License-Identifier: Apache-2.0
"""A pandas job under a budget, and how much of its data is managed."""

import numpy as np
import pandas as pd

import tmem

rng = np.random.default_rng(1)

with tmem.limit("64M", swap="1G") as budget:
    frame = pd.DataFrame({"station": rng.integers(0, 500, 1 << 22), "tenths": rng.integers(0, 400, 1 << 22)})
    frame["degrees"] = frame["tenths"] / 10
    means = frame.groupby("station")["degrees"].mean()
    numpy = tmem.stats().numpy

print(f"{len(frame):,} rows, warmest station {means.max():.1f}")
print(f"{numpy.share:.0%} of NumPy's large arrays is managed, {numpy.arrow >> 20} MiB in Arrow")
print(f"used {budget.stats().used >> 20} MiB of {budget.memory.ram >> 20} MiB for {numpy.managed >> 20} MiB")
