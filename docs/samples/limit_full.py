# SPDX-License-Identifier: Apache-2.0
"""What is said where an array does not fit, and limits inside limits."""

import warnings

import numpy as np

import tmem

warnings.simplefilter("ignore", tmem.OvershootWarning)  # they come, too; here the error is enough

try:
    with tmem.limit("32M", swap="16M"):
        noise = np.random.default_rng(1).random(1 << 23)  # 64 MiB that do not compress
        more = noise * 2
except MemoryError as error:
    print(error)
    print(*error.__notes__)

outer = tmem.limit("64M", swap="256M")
inner = tmem.limit("32M", swap="256M")
with outer:
    before = np.ones(1 << 20)  # 8 MiB
    with inner:
        between = before + 1  # its own budget
    after = np.ones(1 << 20)
print("outer:", outer.stats().mapped >> 20, "MiB, inner:", inner.stats().mapped >> 20, "MiB")

with outer:
    for _ in range(20):
        np.ones(4 << 20)  # 32 MiB each, gone at once
print("blocks:", outer.blocks())

del before, between, after
