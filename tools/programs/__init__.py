# SPDX-License-Identifier: Apache-2.0
"""Whole programs that are run plainly and under `tmem run`: what each reads, how it is started, what its answer is."""
