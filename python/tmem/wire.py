# SPDX-License-Identifier: Apache-2.0
"""What guests, the host and the administrator say to each other: every message, its bounds, and its bytes.

Owns: the messages' names and the order of their fields. Called by daemon, and by tests that play a guest. Calls
nothing, and does no input or output. A message is one packet: a MessagePack array, the tag first.
Law: what does not fit its message to the last field is refused whole, as a WireError; no packet is half understood.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "GUEST_MESSAGES",
    "HOST_MESSAGES",
    "LONGEST",
    "MOST_FDS",
    "MOST_IDS",
    "REASONS",
    "VERSION",
    "Balloon",
    "Ballooned",
    "Claim",
    "Done",
    "Error",
    "Give",
    "Gone",
    "Granted",
    "GuestMessage",
    "Hello",
    "HostMessage",
    "Join",
    "Joined",
    "Lease",
    "Leave",
    "Member",
    "Refused",
    "Report",
    "Revoked",
    "Set",
    "Shrink",
    "Shrunk",
    "Welcome",
    "WireError",
    "pack",
    "pack_answer",
    "pack_request",
    "unpack_answer",
    "unpack_from_guest",
    "unpack_from_host",
    "unpack_request",
]

VERSION: Final = 1
LONGEST: Final = 65536
"""Bytes of a packet between guest and host, at most."""
MOST_FDS: Final = 32
"""Descriptors that come with one packet, at most."""
MOST_IDS: Final = 256
"""Extents that one `give` or `revoked` names, at most."""
SECRET_BYTES: Final = 16
LONGEST_NAME: Final = 63
"""Bytes of a guest's name, at most."""

REASONS: Final = frozenset(
    {"host-full", "over-cap", "frozen", "quota", "not-granted", "no-policy", "bad-extent", "busy"}
)
"""Why the host refuses."""

Number = Annotated[int, Meta(ge=0)]
Kind = Annotated[int, Meta(ge=0, le=3)]
Count = Annotated[int, Meta(ge=1, le=MOST_FDS)]
Ids = Annotated[list[Number], Meta(max_length=MOST_FDS)]
ManyIds = Annotated[list[Number], Meta(max_length=MOST_IDS)]
Secret = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
Text = Annotated[str, Meta(max_length=1024)]


T = TypeVar("T")


class WireError(ValueError):
    """A packet that is no message."""


class _Message(Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False, tag=str.lower):
    """What all messages have in common: the tag is the name of the class."""


# From guest to host.


class Hello(_Message, frozen=True):
    """The first message of a guest."""

    version: Number
    name: Annotated[str, Meta(max_length=LONGEST_NAME)]


class Lease(_Message, frozen=True):
    """Asks for 1 to `count` extents."""

    seq: Number
    kind: Kind
    pool: Number
    count: Count


class Give(_Message, frozen=True):
    """Gives extents back, which the guest no longer uses."""

    seq: Number
    ids: ManyIds


class Claim(_Message, frozen=True):
    """Tells a new host what the guest still holds; as many descriptors come with it."""

    seq: Number
    kind: Kind
    pool: Number
    ids: Ids


class Report(_Message, frozen=True):
    """What a guest tells of itself. Nobody answers."""

    ram: Number
    resident: Number
    standby: Number
    store_bytes: Number
    leased_used: Number
    stored_pages: Number
    swap_bytes: Number
    faults: Number
    fault_ns: Number
    loads: Number
    stores: Number
    refused_full: Number
    want_bytes: Number
    sampled: Number
    active: Number


class Shrunk(_Message, frozen=True):
    """Answers Shrink, after what could be given was given."""

    seq: Number
    bytes_given: Number


class Ballooned(_Message, frozen=True):
    """Answers Balloon."""

    seq: Number
    ram_bytes: Number


class Join(_Message, frozen=True):
    """Asks to become a member of a shared pool."""

    seq: Number
    secret: Secret


class Leave(_Message, frozen=True):
    """Ends a membership."""

    seq: Number
    pool: Number


# From host to guest.


class Welcome(_Message, frozen=True):
    """Answers Hello."""

    version: Number
    guest_id: Number
    extent_bytes: Number
    most_bytes: Number
    report_ms: Number


class Granted(_Message, frozen=True):
    """Answers Lease, with as many descriptors; and Claim, without, 0 where an extent was not accepted."""

    seq: Number
    ids: Ids


class Refused(_Message, frozen=True):
    """Answers a question with no, and when it is worth asking again."""

    seq: Number
    reason: Text
    retry_ms: Number


class Done(_Message, frozen=True):
    """Answers Give and Leave."""

    seq: Number


class Shrink(_Message, frozen=True):
    """Asks a guest to give back persistent extents worth so many bytes."""

    seq: Number
    bytes: Number


class Balloon(_Message, frozen=True):
    """Sets the target of what a guest keeps resident; 0 is its own budget."""

    seq: Number
    ram_bytes: Number


class Set(_Message, frozen=True):
    """What the operator has set for a guest's pools."""

    frozen: bool
    compress: bool


class Revoked(_Message, frozen=True):
    """Extents that are empty already."""

    ids: ManyIds


class Joined(_Message, frozen=True):
    """Answers Join, with the descriptor of the board."""

    seq: Number
    pool: Number
    member: Number


class Member(_Message, frozen=True):
    """New extents of another member, with read-only descriptors."""

    pool: Number
    member: Number
    ids: Ids
    kinds: Annotated[list[Kind], Meta(max_length=MOST_FDS)]


class Gone(_Message, frozen=True):
    """Another member left or died."""

    pool: Number
    member: Number


class Error(_Message, frozen=True):
    """The last message before the host hangs up."""

    text: Text


GuestMessage = Hello | Lease | Give | Claim | Report | Shrunk | Ballooned | Join | Leave
HostMessage = Welcome | Granted | Refused | Done | Shrink | Balloon | Set | Revoked | Joined | Member | Gone | Error
GUEST_MESSAGES: Final = (Hello, Lease, Give, Claim, Report, Shrunk, Ballooned, Join, Leave)
HOST_MESSAGES: Final = (
    Welcome, Granted, Refused, Done, Shrink, Balloon, Set, Revoked, Joined, Member, Gone, Error,
)  # fmt: skip

_ENCODER = msgspec.msgpack.Encoder()
_FROM_GUEST: msgspec.msgpack.Decoder[GuestMessage] = msgspec.msgpack.Decoder(GuestMessage)
_FROM_HOST: msgspec.msgpack.Decoder[HostMessage] = msgspec.msgpack.Decoder(HostMessage)
_REQUEST = msgspec.msgpack.Decoder(tuple[Annotated[str, Meta(max_length=32)], dict[str, Any]])
_ANSWER = msgspec.msgpack.Decoder(tuple[str, Any])


def pack(message: GuestMessage | HostMessage) -> bytes:
    """Return the packet of a message. WireError where the message does not fit one."""
    packet = _ENCODER.encode(message)
    if len(packet) > LONGEST:
        raise WireError(f"a message of {len(packet)} bytes is longer than a packet of {LONGEST}")
    return packet


def unpack_from_guest(packet: bytes | bytearray | memoryview) -> GuestMessage:
    """Return what a guest said. WireError where it is no message of a guest."""
    return _unpack(_FROM_GUEST, packet)


def unpack_from_host(packet: bytes | bytearray | memoryview) -> HostMessage:
    """Return what the host said. WireError where it is no message of a host."""
    return _unpack(_FROM_HOST, packet)


def pack_request(verb: str, arguments: dict[str, Any]) -> bytes:
    """Return the packet of an administrator's question."""
    return _ENCODER.encode((verb, arguments))


def unpack_request(packet: bytes | bytearray | memoryview) -> tuple[str, dict[str, Any]]:
    """Return verb and arguments of an administrator's question. WireError where it is none."""
    return _unpack(_REQUEST, packet)


def pack_answer(result: object, failed: str | None = None) -> bytes:
    """Return the packet of an answer to an administrator: `result`, or why there is none."""
    return _ENCODER.encode(("ok", result) if failed is None else ("failed", failed))


def unpack_answer(packet: bytes | bytearray | memoryview) -> tuple[str, Any]:
    """Return the word and what stands behind it of an answer to an administrator. WireError where it is none."""
    try:
        return _ANSWER.decode(packet)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from None


def _unpack(decoder: msgspec.msgpack.Decoder[T], packet: bytes | bytearray | memoryview) -> T:
    if len(packet) > LONGEST:
        raise WireError(f"a packet of more than {LONGEST} bytes")
    try:
        return decoder.decode(packet)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None
