# SPDX-License-Identifier: Apache-2.0
"""A fixed partition: each guest has its part of the capacity, used or not.

Owns: the policy `fixed`. Called by the daemon. What one leaves idle is never lent to another, so that nobody ever waits
for anybody; but for those that were there before a guest came, which give what is its part when it asks.
"""

from __future__ import annotations

from typing import ClassVar

from tmem.policies.shares import shares
from tmem.policies.view import Decision, HostView, Request
from tmem.policies.weighted import divide

__all__ = ["Fixed"]


class Fixed:
    """The part of a guest is its weight's part of the capacity, between its reservation and its cap."""

    name: ClassVar[str] = "fixed"

    def decide(self, view: HostView, request: Request | None) -> Decision:
        """Grant up to the guest's part; of what it has not, who is over its own part gives."""
        decision = divide(view, request, shares(view))
        if request is None or decision.reason != "host-full":
            return decision
        guest = view.guest(request.guest)
        full = guest.held >= shares(view)[guest.id]
        return Decision(revoke=decision.revoke, ask=decision.ask, reason="quota" if full else "host-full")
