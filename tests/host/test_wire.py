# SPDX-License-Identifier: Apache-2.0
"""Messages: their bytes stay as they are, and nothing that is no message passes for one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmem import wire

MOST = 2**64 - 1

# The other implementation is tested against the same bytes.
GUEST_GOLDEN = [
    (wire.Hello(1, "x"), "93a568656c6c6f01a178"),
    (wire.Lease(1, 0, 0, 32), "95a56c6561736501000020"),
    (wire.Give(7, [1, 300]), "93a467697665079201cd012c"),
    (wire.Claim(7, 1, 2, [5]), "95a5636c61696d0701029105"),
    (wire.Report(*range(15)), "dc0010a67265706f7274000102030405060708090a0b0c0d0e"),
    (wire.Shrunk(2, 1 << 22), "93a6736872756e6b02ce00400000"),
    (wire.Ballooned(3, 1 << 33), "93a962616c6c6f6f6e656403cf0000000200000000"),
    (wire.Join(4, bytes(range(16))), "93a46a6f696e04c410000102030405060708090a0b0c0d0e0f"),
    (wire.Leave(5, 9), "93a56c656176650509"),
]
HOST_GOLDEN = [
    (wire.Welcome(1, 2, 1 << 22, MOST, 1000), "96a777656c636f6d650102ce00400000cfffffffffffffffffcd03e8"),
    (wire.Granted(1, [5, 0]), "93a76772616e74656401920500"),
    (wire.Refused(1, "host-full", 100), "94a77265667573656401a9686f73742d66756c6c64"),
    (wire.Done(1), "92a4646f6e6501"),
    (wire.Shrink(1, 8), "93a6736872696e6b0108"),
    (wire.Balloon(1, 0), "93a762616c6c6f6f6e0100"),
    (wire.Set(frozen=True, compress=False), "93a3736574c3c2"),
    (wire.Revoked([1, 2]), "92a77265766f6b6564920102"),
    (wire.Joined(1, 2, 3), "94a66a6f696e6564010203"),
    (wire.Member(1, 2, [9], [3]), "95a66d656d626572010291099103"),
    (wire.Gone(1, 2), "93a4676f6e650102"),
    (wire.Error("no"), "92a56572726f72a26e6f"),
]


@pytest.mark.parametrize(("message", "packet"), GUEST_GOLDEN, ids=lambda value: type(value).__name__)
def test_what_a_guest_says_has_these_bytes(message: Any, packet: str) -> None:
    assert wire.pack(message).hex() == packet
    assert wire.unpack_from_guest(bytes.fromhex(packet)) == message
    with pytest.raises(wire.WireError):
        wire.unpack_from_host(bytes.fromhex(packet))


@pytest.mark.parametrize(("message", "packet"), HOST_GOLDEN, ids=lambda value: type(value).__name__)
def test_what_a_host_says_has_these_bytes(message: Any, packet: str) -> None:
    assert wire.pack(message).hex() == packet
    assert wire.unpack_from_host(bytes.fromhex(packet)) == message
    with pytest.raises(wire.WireError):
        wire.unpack_from_guest(bytes.fromhex(packet))


def test_every_message_has_its_bytes_here() -> None:
    assert [type(message) for message, _ in GUEST_GOLDEN] == list(wire.GUEST_MESSAGES)
    assert [type(message) for message, _ in HOST_GOLDEN] == list(wire.HOST_MESSAGES)


@pytest.mark.parametrize(
    "said",
    [
        5, [], ["lease"], ["nothing", 1], [["lease"], 1, 0, 0, 1], {"lease": 1},
        ["lease", 1, 0, 0], ["lease", 1, 0, 0, 1, 1],  # arity
        ["lease", -1, 0, 0, 1], ["lease", 1, 4, 0, 1], ["lease", 1, 0, 0, 0], ["lease", 1, 0, 0, 33],
        ["lease", True, 0, 0, 1], ["lease", 1.0, 0, 0, 1], ["lease", None, 0, 0, 1],
        ["give", 1, list(range(257))], ["give", 1, [-1]], ["claim", 1, 0, 0, list(range(33))],
        ["join", 1, bytes(15)], ["join", 1, bytes(17)], ["join", 1, "x" * 16], ["hello", 1, "x" * 64],
        ["report", *range(14)],
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_whole(said: object) -> None:
    with pytest.raises(wire.WireError):
        wire.unpack_from_guest(msgspec.msgpack.encode(said))


def test_bytes_behind_a_message_and_long_packets_are_refused() -> None:
    packet = wire.pack(wire.Lease(1, 0, 0, 1))
    for bad in (packet + b"\0", packet[:-1], b"", bytes(wire.LONGEST + 1), b"\x91" * 60_000, b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(wire.WireError):
            wire.unpack_from_guest(bad)


def test_numbers_have_64_bits() -> None:
    assert wire.unpack_from_guest(wire.pack(wire.Leave(MOST, MOST))) == wire.Leave(MOST, MOST)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(packet: bytes) -> None:
    for unpack in (wire.unpack_from_guest, wire.unpack_from_host, wire.unpack_request):
        try:
            unpack(packet)
        except wire.WireError:
            continue


VALUES = st.none() | st.booleans() | st.integers(0, MOST) | st.text(max_size=70) | st.binary(max_size=20)


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES | st.lists(VALUES, max_size=3), max_size=17))
def test_any_array_is_a_message_or_an_error(said: list[Any]) -> None:
    for message in wire.GUEST_MESSAGES:
        packet = msgspec.msgpack.encode([message.__name__.lower(), *said])
        try:
            again = wire.pack(wire.unpack_from_guest(packet))
        except wire.WireError:
            continue
        assert again == packet


def test_a_request_is_a_verb_and_a_map() -> None:
    assert wire.unpack_request(wire.pack_request("list", {"guest": None})) == ("list", {"guest": None})
    assert wire.unpack_answer(wire.pack_answer({"bytes": 5})) == ("ok", {"bytes": 5})
    assert wire.unpack_answer(wire.pack_answer(None, "why")) == ("failed", "why")
    for bad in (["list"], ["list", {}, 1], [1, {}], ["list", []], ["x" * 33, {}]):
        with pytest.raises(wire.WireError):
            wire.unpack_request(msgspec.msgpack.encode(bad))
