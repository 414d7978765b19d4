# SPDX-License-Identifier: Apache-2.0
"""What the README shows of pools, with the pages that it puts made first."""

import tmem

page = bytes(4096)
pages = bytearray(1024 * 4096)

host = tmem.Host("1G")  # RAM for pools, tables included; without one, a quarter of what the process may use
pool = tmem.Pool(host=host, guest="images")  # persistent: kept until flushed or put again
if not pool.put(7, 0, page):  # Refused(reason), at any time: keep the page, or write it elsewhere
    ...
codes = pool.put_many(7, range(1, 1025), pages)  # 0 is stored; without the GIL
pool.get(7, 0)  # bytes, or None; into= copies into a buffer of yours
cache = tmem.Pool(persistent=False, exclusive=False, host=host)  # may forget the oldest pages when room is short
pool.save("images.pool")  # and tmem.Pool.restore; whatever ends a save, the old file or the new one is there, whole
host.set("images", weight=2, cap="512M")  # who is most over its share gives way first
