# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a real table grown past its RAM budget, the same work with tmem and without.

recipe grows the table, jobs are the work, worker is one measured process, run puts them together.
"""
