# SPDX-License-Identifier: Apache-2.0
"""The host daemon: leases memory to guests, and never sees a page.

Owns: nothing itself. A lease is read down its files: server (a packet comes), flow (what it means), ledger (what there
is), the policy (who gets it), extent (the memory). All runs in one thread, in an event loop.
"""
