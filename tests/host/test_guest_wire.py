# SPDX-License-Identifier: Apache-2.0
"""The bytes that the guests' side is tested with are those that the daemon reads and writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmem import wire

GOLDEN = Path(__file__).resolve().parents[2] / "crates/tmem-guest/tests/wire.golden"
LARGEST = (1 << 64) - 1
MESSAGES: list[wire.GuestMessage | wire.HostMessage] = [
    wire.Hello(1, "sørt"),
    wire.Lease(7, 0, 0, 8),
    wire.Give(300, [1, 200, 70000, LARGEST]),
    wire.Claim(8, 2, 3, [5, 6]),
    wire.Report(*(10**n for n in range(15))),
    wire.Shrunk(9, 4 << 20),
    wire.Ballooned(10, 64 << 20),
    wire.Join(11, bytes(range(16))),
    wire.Leave(12, 3),
    wire.Welcome(1, 42, 4 << 20, 1 << 40, 1000),
    wire.Granted(7, [1, 200, 0]),
    wire.Refused(7, "host-full", 250),
    wire.Done(300),
    wire.Shrink(9, 8 << 20),
    wire.Balloon(10, 0),
    wire.Set(True, False),  # noqa: FBT003 - the message's fields
    wire.Revoked([1, 70000]),
    wire.Joined(11, 3, 15),
    wire.Member(3, 2, [9, 10], [2, 3]),
    wire.Gone(3, 2),
    wire.Error("too long"),
]


def test_every_message_has_golden_bytes() -> None:
    names = [line.split()[0] for line in GOLDEN.read_text(encoding="ascii").splitlines()]
    assert names == [type(message).__name__.lower() for message in MESSAGES]
    assert len(MESSAGES) == len(wire.GUEST_MESSAGES) + len(wire.HOST_MESSAGES)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_packed_to_its_golden_bytes(message: wire.GuestMessage | wire.HostMessage) -> None:
    name = type(message).__name__.lower()
    golden = dict(line.split() for line in GOLDEN.read_text(encoding="ascii").splitlines())
    assert wire.pack(message).hex() == golden[name]
