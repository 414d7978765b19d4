# SPDX-License-Identifier: Apache-2.0
"""The maker of docs/reference: `python -m tools.reference` writes the pages, `--check` says which are out of date."""
