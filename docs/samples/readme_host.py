# SPDX-License-Identifier: Apache-2.0
"""What the README shows of a daemon, which is to run already."""

import tmem

mem = tmem.Memory("512M", host="auto")  # beyond its budget into leased memory, then to its swap device
guest = tmem.Guest()  # a connection for pools: tmem.Pool(persistent=False, host=guest)
