# SPDX-License-Identifier: Apache-2.0
"""`tmem top`: the daemon's host and its guests, as they change.

model has the numbers and looks has how they are shown, both without a terminal; feed asks the daemon,
screens and app are the textual program, which needs the extra `tmem[host]`.
"""
