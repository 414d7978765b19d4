# SPDX-License-Identifier: Apache-2.0
"""Pages put and got by hand: persistent and ephemeral pools, batches, and guests who share a host."""

import numpy as np

import tmem

host = tmem.Host("8M")  # RAM for pools: pages and their tables
pages = np.arange(8 * 512).reshape(8, 512)  # 8 pages of 4096 bytes

with tmem.Pool(host=host) as pool:  # persistent
    outcome = pool.put(1, 0, pages[0])  # object 1, index 0
    if not outcome:
        print("refused:", outcome.reason.name)
    print("the same bytes:", pool.get(1, 0) == pages[0].tobytes(), "and index 1:", pool.get(1, 1))

    codes = pool.put_many(1, range(8), pages)
    back = np.empty_like(pages)
    found = pool.get_many(1, range(8), back)
    print("stored:", int((codes == 0).sum()), "found:", int(found.sum()), "equal:", bool((back == pages).all()))

with tmem.Pool(persistent=False, host=host) as cache:  # each page goes with the get that reads it
    cache.put(7, 3, pages[3])
    print("once:", cache.get(7, 3) is not None, "twice:", cache.get(7, 3) is not None)

noise = np.random.default_rng(1).integers(0, 256, (1500, 4096), dtype="u1")  # 6 MB that do not compress
host.set("important", weight=3)
host.set("hog", weight=1, cap="6M")
mine = tmem.Pool(persistent=False, exclusive=False, host=host, guest="important")
theirs = tmem.Pool(persistent=False, exclusive=False, host=host, guest="hog")
theirs.put_many(1, range(1500), noise)
mine.put_many(1, range(1000), noise[:1000])
for name, guest in host.guests().items():
    print(f"{name:<10} weight {guest.weight}, {guest.pages:4} pages, {guest.evicted:4} evicted")
print("sound:", host.check() == [])

mine.destroy()
theirs.destroy()
