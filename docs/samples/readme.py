# SPDX-License-Identifier: Apache-2.0
"""What the README shows, as it shows it, with the file that it reads made first."""

from numpy import arange, save

save("table.npy", arange(1 << 20, dtype="f4"))

import numpy as np

import tmem

with tmem.limit("256M"):  # NumPy's own arrays, in this block and in the threads it starts
    table = np.zeros((1 << 25, 2))  # 512 MiB, twice the budget
    table[:, 0] = 1
    print(table.sum())

tmem.stats()  # how much of it is managed, and what escaped
del table

mem = tmem.Memory(ram="256M", swap="4G")  # one budget for everything
a = mem.zeros((20_000, 50_000), dtype="f4")  # 4 GB in a real numpy.ndarray: views, C extensions and out= all work
b = mem.from_file("table.npy")  # read in pieces, never twice in memory
with tmem.pin(a[:100]):  # these rows stay in RAM; BudgetError if they would not fit
    a[:100] = 1
tmem.evict(a[100:])  # these may go now; prefetch brings back, advise tells what is to come
mem.stats()  # resident, standby, store, ratio, swap, faults, stall time
