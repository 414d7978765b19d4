# SPDX-License-Identifier: Apache-2.0
"""Sizes in and out: what a person may write, and how a number of bytes is shown.

Owns: the grammar of sizes. Called by memory, swapdir, cli. Calls nothing. Pure.
Law: a size that could be read in two ways is refused, with both readings in the message. Without `re`: `tmem run`
begins with it.
"""

from __future__ import annotations

from tmem.errors import SizeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex

    from tmem.kinds import Size

__all__ = ["AUTO_PERCENT", "LARGEST", "format_size", "parse_size"]

AUTO_PERCENT = 50
"""`auto` is this share of what the machine, or the cgroup if it allows less, has."""

LARGEST = 1 << 50
"""A size from here on (1 PiB) is a slip of the hand: no machine this runs on maps so much."""

_LONGEST_TEXT = 64
_DIGITS = frozenset("0123456789")
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz%")
_SCALE = {"": 1, "B": 1}
_SCALE |= {letter: 1024**power for power, letter in enumerate("KMGT", start=1)}
_SCALE |= {letter.lower(): scale for letter, scale in _SCALE.items() if letter in "KMGT" and letter}
_SCALE |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)}
_SCALE |= {f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)}
_KNOWN = "K M G T (1024-based), KiB MiB GiB TiB, or kB MB GB TB (1000-based)"


def parse_size(size: Size, *, whole: int | None = None, what: str = "size") -> int:
    """Return `size` in bytes.

    `whole`, in bytes, is what `50%` and `auto` are a share of; without it they are refused. `what` names the size in
    the message of the SizeError that a negative, zero, absurd or misspelt one raises.
    """
    if isinstance(size, bool) or not (isinstance(size, str | float) or hasattr(type(size), "__index__")):
        raise SizeError(f"{what} must be a number of bytes or text such as '2G', not {size!r}")
    count = _from_text(size, whole, what) if isinstance(size, str) else _from_number(size, what)
    if count <= 0:
        raise SizeError(f"{what} must be more than zero bytes, not {size!r}")
    if count >= LARGEST:
        raise SizeError(f"{what} {size!r} is {format_size(count)}, more than any machine has: check the unit")
    return count


def format_size(count: float) -> str:
    """Return `count` bytes for a person to read, in binary units: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - the base of binary units
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} PiB" if count < 1024 else f"{count:.3g} PiB"  # noqa: PLR2004


def _from_number(size: SupportsIndex | float, what: str) -> int:
    if isinstance(size, float):
        if not size.is_integer():  # nan and the infinities are not, either
            raise SizeError(f"{what} must be a whole number of bytes, not {size!r}")
        return int(size)
    return size.__index__()


def _from_text(text: str, whole: int | None, what: str) -> int:
    given = text.strip()
    if given == "auto":
        return _share(AUTO_PERCENT, whole, given, what)
    parts = _split(given) if len(given) <= _LONGEST_TEXT else None
    if parts is None:
        raise SizeError(f"{what} {text[:_LONGEST_TEXT]!r} is not a size: write a number and one of {_KNOWN}")
    number, unit = parts
    if unit == "%":
        return _share(float(number), whole, given, what)
    if unit not in _SCALE:
        raise SizeError(_doubt(number, unit, text, what))
    return _multiply(number, _SCALE[unit])


def _split(text: str) -> tuple[str, str] | None:
    """Return the number and the unit of `1.5 GiB`; None for what is not of that shape."""
    end = next((at for at, letter in enumerate(text) if letter not in _DIGITS and letter != "."), len(text))
    number, unit = text[:end], text[end:].lstrip(" ")
    if number.count(".") > 1 or not _DIGITS & set(number) or set(unit) - _LETTERS:
        return None
    return number, unit


def _multiply(number: str, scale: int) -> int:
    """Multiply without a float, so that 12 digits and more stay exact; a fraction of a byte is dropped."""
    whole, _, fraction = number.partition(".")
    digits = int(whole + fraction or "0")
    return int(digits * scale // 10 ** len(fraction))


def _share(percent: float, whole: int | None, given: str, what: str) -> int:
    if whole is None:
        raise SizeError(f"{what} {given!r}: a share has no meaning here, write bytes such as '2G'")
    if not 0 < percent <= 100:  # noqa: PLR2004 - per cent
        raise SizeError(f"{what} {given!r} must be above 0% and at most 100% of {format_size(whole)}")
    return int(whole * percent / 100)


def _doubt(number: str, unit: str, text: str, what: str) -> str:
    letter = unit[:1].upper()
    if letter in "KMGT" and unit.upper() in {f"{letter}B", f"{letter}IB"}:
        decimal = f"{letter if letter != 'K' else 'k'}B"
        binary, tens = _multiply(number, _SCALE[letter]), _multiply(number, _SCALE[decimal])
        return (
            f"{what} {text!r} can be read in two ways: write '{number}{letter}' for {binary} bytes or "
            f"'{number}{decimal}' for {tens} bytes"
        )
    return f"{what} {text!r} has the unknown unit {unit!r}: use {_KNOWN}"
