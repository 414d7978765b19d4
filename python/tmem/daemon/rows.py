# SPDX-License-Identifier: Apache-2.0
"""What an operator is told of host and guests: plain numbers by name, in bytes and seconds.

Owns: the names of the fields. Called by admin, metrics. Calls nothing that changes anything.
"""

from __future__ import annotations

from typing import Any, Final

from tmem.daemon.extent import EPHEMERAL, PERSISTENT
from tmem.daemon.guest import Guest
from tmem.daemon.host import Host
from tmem.wire import VERSION

__all__ = ["guest_row", "host_row"]

_COUNTERS: Final = (
    "leases", "granted", "revoked", "given", "claimed", "bad_claims", "deaths", "malformed", "rate_limited", "asked",
    "answered", "unanswered", "valve", "turned_away", "no_memory", "internal_errors",
)  # fmt: skip


def host_row(host: Host) -> dict[str, Any]:
    """Return what the host has and did."""
    ledger = host.ledger
    return {
        "version": VERSION,
        "policy": host.policy.name,
        "capacity": ledger.capacity,
        "extent_bytes": host.unit,
        "leased_bytes": ledger.leased,
        "free_bytes": ledger.free,
        "freeable_bytes": ledger.freeable(),
        "reserved_bytes": ledger.reserved,
        "guests": len(host.guests),
        "pools": len(host.pools),
        "pressure": host.pressure,
        "since": host.since,
        "counters": {name: host.counters[name] for name in _COUNTERS} | {"refused": dict(host.refused)},
    }


def guest_row(host: Host, guest: Guest, weights: int) -> dict[str, Any]:
    """Return what a guest holds, what was set for it, and what it told of itself. `weights` is the sum of all."""
    held, report, now = guest.holding.bytes, guest.report, host.now()
    return {
        "id": guest.id,
        "name": guest.name,
        "pid": guest.peer.pid,
        "uid": guest.peer.uid,
        "user": guest.peer.user,
        "cgroup": guest.peer.cgroup,
        "weight": guest.weight,
        "cap": guest.cap,
        "reservation": guest.reservation,
        "compress": guest.compress,
        "frozen": guest.frozen,
        "persistent_bytes": held[PERSISTENT],
        "ephemeral_bytes": held[EPHEMERAL],
        "shared_bytes": guest.holding.ephemeral_bytes - held[EPHEMERAL],
        "share_bytes": host.ledger.capacity * guest.weight // weights if weights else 0,
        "want_bytes": min(guest.want(now) * host.unit, host.ledger.capacity),
        "answered": guest.answered,
        "unanswered": guest.unanswered,
        "asked_bytes": guest.asked * host.unit,
        "connected": now - guest.born,
        "balloon": guest.balloon,
        **{name: getattr(report, name) for name in report.__struct_fields__ if name != "want_bytes"},
        "faults_s": guest.faults_s,
        "stall": guest.stall,
        "refused": dict(guest.refused),
    }
