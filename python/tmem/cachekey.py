# SPDX-License-Identifier: Apache-2.0
"""Keys of a cache as bytes: from a key, back to it, and from a call's arguments.

Owns: which keys there are. Called by cache. Pure.
Law: two keys have the same bytes only if they are the same key, types included: 1, 1.0, True and "1" are four. What
ends where is in the bytes, so that no two tuples run together.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeAlias

__all__ = ["Key", "call_key", "from_bytes", "to_bytes"]

Key: TypeAlias = "str | bytes | int | float | bool | tuple[Key, ...] | None"
"""What can be a key: these, and tuples of them, at any depth."""

_LENGTH: Final = struct.Struct(">I")
_FLOAT: Final = struct.Struct(">d")
_CONSTANTS: Final[dict[bytes, Key]] = {b"N": None, b"F": False, b"T": True}
_NAMED: Final = "named"  # between a call's positional arguments and its named ones


def to_bytes(key: Key) -> bytes:
    """Return a key as bytes. TypeError for what is no key; a subclass's instance counts as its base's."""
    if isinstance(key, str):
        return _with_length(b"s", key.encode("utf-8", "surrogatepass"))
    if isinstance(key, bytes):
        return _with_length(b"b", key)
    if key is None or isinstance(key, bool):
        return b"N" if key is None else b"T" if key else b"F"
    if isinstance(key, int):
        number = int(key)
        return _with_length(b"i", number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(key, float):
        return b"f" + _FLOAT.pack(key)
    if isinstance(key, tuple):
        return b"t" + _LENGTH.pack(len(key)) + b"".join(map(to_bytes, key))
    raise TypeError(
        f"a key is a str, bytes, int, float, bool, None, or a tuple of these, not {type(key).__name__}: "
        "make such a key of it"
    )


def from_bytes(data: bytes) -> Key:
    """Return the key that `to_bytes` was given."""
    return _read(data, 0)[0]


def call_key(
    name: str,
    args: tuple[Any, ...],
    named: Mapping[str, Any],
    *,
    typed: bool = False,
    ignore: Collection[int | str] = (),
) -> Key:
    """Return the key of a call of the function `name`: its arguments as they were passed, without those in `ignore`.

    Unless `typed`, numbers that are equal are one: 1, 1.0 and True.
    """
    as_key: Callable[[Any], Any] = _as_it_is if typed else _plain
    positional = tuple(as_key(value) for at, value in enumerate(args) if at not in ignore)
    rest = tuple((word, as_key(value)) for word, value in sorted(named.items()) if word not in ignore)
    return (name, positional, _NAMED, rest)


def _as_it_is(value: Any) -> Any:
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


def _with_length(tag: bytes, data: bytes) -> bytes:
    try:
        return tag + _LENGTH.pack(len(data)) + data
    except struct.error:
        raise ValueError("a key has less than 4 GiB: hash it first") from None


def _read(data: bytes, at: int) -> tuple[Key, int]:
    """Return the key that begins at `at`, and where it ends."""
    tag, at = data[at : at + 1], at + 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == b"f":
        return _FLOAT.unpack_from(data, at)[0], at + _FLOAT.size
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    if tag == b"t":
        items: list[Key] = []
        for _ in range(length):
            item, at = _read(data, at)
            items.append(item)
        return tuple(items), at
    body, at = data[at : at + length], at + length
    if tag == b"s":
        return body.decode("utf-8", "surrogatepass"), at
    return (body, at) if tag == b"b" else (int.from_bytes(body, "big", signed=True), at)
