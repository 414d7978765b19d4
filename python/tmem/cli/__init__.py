# SPDX-License-Identifier: Apache-2.0
"""The `tmem` command: one verb a file, listed in main."""
