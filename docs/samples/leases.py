# SPDX-License-Identifier: Apache-2.0
"""Memory on lease from a daemon: an array past its budget, pools, and a pool that guests share.

Needs a `tmem daemon` of this user's at the socket in TMEM_HOST, or at one of its usual places.
"""

import subprocess
import time

import numpy as np

import tmem

mem = tmem.Memory("32M", host="auto")
a = mem.zeros((64, 1 << 17))  # 64 MiB, twice the budget
for n, row in enumerate(a):
    row[:] = np.random.default_rng(n).random(row.size)  # does not pack

stats = mem.stats()
print(f"{stats.host}: {stats.used >> 20} MiB of its own, {stats.leased >> 20} MiB on lease")

print("the same:", all(np.array_equal(row, np.random.default_rng(n).random(row.size)) for n, row in enumerate(a)))

pages = np.random.default_rng(1).integers(0, 256, (512, 4096), dtype="u1")  # 2 MiB

guest = tmem.Guest(name="images")
while guest.stats().state != "connected":  # until then ephemeral pools refuse
    time.sleep(0.01)

cache = tmem.Pool(persistent=False, exclusive=False, host=guest)  # the daemon may take these back at any moment
kept = tmem.Pool(host=guest)  # and these only ask for
stored = cache.put_many(1, range(512), pages) == 0
kept.put_many(1, range(512), pages)
print(f"stored: {stored.sum()} and {kept.stats().pages}; on lease: {guest.stats().held} extents")

secret = tmem.new_secret()
grant = ["tmem", "shared-auth", "images", "--uuid", secret.hex(), "-A", "1"]  # the operator's part
subprocess.run(grant, check=True, capture_output=True)  # noqa: S603 - our own words

shared = guest.shared_pool(secret)  # PoolError where the administrator has not granted it
page = shared.get(7, 3)
if page is None:  # nobody has put it, or it vanished
    page = bytes(pages[3])
    shared.put(7, 3, page)

print("the same page:", shared.get(7, 3) == page)
shared.leave()
guest.close()
