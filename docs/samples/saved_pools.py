# SPDX-License-Identifier: Apache-2.0
"""Pools saved to a file and restored: one, several, and into a host that is too small."""

import numpy as np

import tmem

host = tmem.Host("16M")
pages = np.random.default_rng(1).integers(0, 2**62, (1000, 512))  # 1000 pages of 4096 bytes

pool = tmem.Pool(host=host, name="results")
pool.put_many(1, range(1000), pages)
print("saved:", pool.save("results.tmem"), "pages")

again = tmem.Pool.restore("results.tmem", host=host)  # here, or in another process, days later
back = np.empty_like(pages)
again.get_many(1, range(1000), back)
print("restored:", again.stats().pages, "pages, equal:", bool((back == pages).all()))

other = tmem.Pool(host=host, name="settings")
other.put(0, 0, b"x" * 4096)
tmem.save_pools("session.tmem", [pool, other])  # both as they are at one moment
for name, one in tmem.restore_pools("session.tmem", host=host).items():
    print(f"{name}: {one.stats().pages} pages")

try:
    tmem.Pool.restore("results.tmem", host=tmem.Host("1M"))
except tmem.BudgetError as error:
    print(error)
