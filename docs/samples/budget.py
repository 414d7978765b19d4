# SPDX-License-Identifier: Apache-2.0
"""Choosing a budget, and reading from the counters whether it was a good choice."""

import numpy as np

import tmem

half = tmem.Memory("auto", swap=None)  # half of what the cgroup, or else the machine, allows
quarter = tmem.Memory("25%", swap=None)
print(f"a quarter is half of auto: {quarter.ram == half.ram // 2}")
half.close()
quarter.close()

mem = tmem.Memory("32M", swap="512M", name="choice")
table = mem.zeros((1 << 13, 1 << 11), dtype="i4")  # 64 MiB
table[:] = np.arange(1 << 11) // 8
table.sum()


def judge(now: tmem.Stats) -> None:
    """Print what the counters say of the budget."""
    if not now.armed:
        print("everything fits: a smaller budget would do")
        return
    print(f"{now.mapped / now.ram:.1f} times the budget, {now.used / now.ram:.0%} of it used")
    print(f"packed {now.ratio:.0f} to 1; {now.swap_used >> 20} of {now.swap_cap >> 20} MiB of the swap device used")
    print(f"{now.faults:,} faults, {now.standby_hits:,} of them cheap; {now.readahead_pages:,} pages came unasked")
    print(f"overshot by {now.overshoot} bytes now, {now.overshoot_events} times in all")
    print(f"refused by the store: {sum(now.refused.values())} pages")


judge(mem.stats())

with tmem.limit("32M", small="packed") as budget:  # arrays below the threshold share paged pages
    many = [np.full(512, number, dtype="i4") for number in range(20_000)]  # 2 KiB each, 40 MiB in all
    print("blocks:", budget.blocks())

del table, many
mem.close()
