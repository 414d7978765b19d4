# SPDX-License-Identifier: Apache-2.0
"""The frontswap hook without a pager: backends and a swap device, asked by the program itself."""

import tmem

device = tmem.SwapDevice("64M")  # what every backend refuses goes here
with tmem.Frontswap(device, [tmem.LocalBackend("16M")], pages=10_000) as fs:
    fs.store(7, bytes(4096))  # Stored() or Refused(reason)
    fs.load(7)  # the bytes, or None
    print(fs.stats())
device.close()
