# SPDX-License-Identifier: Apache-2.0
"""`tmem bench`: arrays of ours beside the kernel's own swap and other memory of the same size, on this machine.

data makes what is written, patterns the orders, jobs the whole jobs; worker is one measured process; undo and kernel
change the machine and change it back; peers says who can be measured here, plan what will be, measure does it, report
and plot show it. footprint is the other mode: bytes of stored pages and cold faults, with zramstore, cold, footrows,
foottables and footplot.
"""
