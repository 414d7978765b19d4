# SPDX-License-Identifier: Apache-2.0
"""The host's policies: who is granted memory, and who gives it.

Owns: their names. Called by the daemon, once for each request and once a second. Each is a pure function of a view of
the host, in a file of its own; none knows a socket, a clock or a page.
Law: the guest that is most over its share is the first to give, never the last (law 11).
"""

from __future__ import annotations

from tmem.policies.balloon import Balloon
from tmem.policies.fixed import Fixed
from tmem.policies.idle_tax import IdleTax
from tmem.policies.stall import Stall
from tmem.policies.view import Decision, GuestView, HostView, Policy, Request, broken
from tmem.policies.weighted import Weighted

__all__ = ["NAMES", "Decision", "GuestView", "HostView", "Policy", "Request", "broken", "get"]

_POLICIES: dict[str, type[Policy]] = {kind.name: kind for kind in (Fixed, Weighted, Balloon, IdleTax, Stall)}

NAMES = ("fixed", "weighted", "balloon", "idle-tax", "stall")
"""Every policy, by the name that `tmem daemon --policy` takes."""


def get(name: str) -> Policy:
    """Return the policy of that name. ValueError where there is none."""
    if name not in _POLICIES:
        raise ValueError(f"unknown policy {name!r}: use one of {', '.join(NAMES)}")
    return _POLICIES[name]()
