# SPDX-License-Identifier: Apache-2.0
"""One array of four times its budget: made, filled, watched, steered. The first half of the tutorial."""

import numpy as np

import tmem

mem = tmem.Memory(ram="64M", swap="1G", name="tutorial")
a = mem.zeros((4096, 16384), dtype="i4")  # a row for each station, a column for each minute: 256 MiB
print(type(a), a.shape, f"{a.nbytes >> 20} MiB")


def look(what: str) -> None:
    now = mem.stats()
    parts = (f"{name} {getattr(now, name) / 2**20:.1f} MiB" for name in ("resident", "store_bytes", "swap_used"))
    print(f"{what}:", ", ".join(parts))


look("made")

rng = np.random.default_rng(1)
for first in range(0, len(a), 256):  # 16 MiB at a time: what NumPy makes on its own is plain memory
    steps = rng.integers(-1, 2, (256, 2048)).cumsum(axis=1)  # tenths of a degree, every eight minutes
    a[first : first + 256] = 150 + np.repeat(steps, 8, axis=1)
look("filled")

print("warmest:", a.max() / 10, "coldest:", a.min() / 10, "mean:", round(a.mean() / 10, 3))
look("read three times")

now = mem.stats()
print(f"used {now.used / 2**20:.1f} MiB of {now.ram >> 20} MiB")
print(f"one byte of the store holds {now.ratio:.1f} bytes of pages")
print(f"{now.faults:,} faults, {now.fault_ns / now.faults / 1000:.1f} µs each")

last = a[-256:]  # a view of the last rows, 16 MiB
print(f"left: {tmem.evict(last) / 2**20:.1f} MiB")
look("evicted the last rows")

tmem.prefetch(last)
look("prefetched them")

with tmem.pin(a[:64]) as first_rows:  # 4 MiB that stay
    a.sum()
    print(f"pinned: {mem.stats().pinned >> 20} MiB, all of {first_rows.shape}")

del a, last, first_rows
mem.close()
