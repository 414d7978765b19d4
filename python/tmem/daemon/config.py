# SPDX-License-Identifier: Apache-2.0
"""What the daemon is told: a TOML file, what the command line says instead, and the default of everything.

Owns: the names, the bounds and the defaults. Called by main and the command line. Calls limits and units.
Law: a key that is not known is an error, and a reload that fails changes nothing.
"""

from __future__ import annotations

import fnmatch
import os
import pwd
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from tmem import policies
from tmem.daemon.extent import MEBIBYTE
from tmem.errors import SizeError, TmemError
from tmem.limits import allowance
from tmem.units import format_size, parse_size

__all__ = ["FILE", "Config", "ConfigError", "Limits", "Rule", "Terms", "load", "parse", "user_number"]

FILE: Final = "/etc/tmem/daemon.toml"
"""Read where no other file is named, if it is there."""

MOST_WEIGHT: Final = 1 << 20
_SMALLEST_EXTENT, _LARGEST_EXTENT = MEBIBYTE, 64 * MEBIBYTE
_RELOADED: Final = ("capacity", "policy", "report_ms", "allow_overflow_uid", "allow_invisible_pid", "limits", "guest")

Size = str | int
Positive = Annotated[int, Meta(ge=1, le=1 << 31)]
Weight = Annotated[int, Meta(ge=0, le=MOST_WEIGHT)]


class ConfigError(TmemError, ValueError):
    """The configuration cannot be used."""


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much of the daemon anybody may use."""

    guests: Positive = 1024  # connections in all
    guests_per_user: Positive = 256
    pools: Positive = 64  # shared ones
    extents_per_guest: Positive = 65536
    user_bytes: Size = "100%"  # of the capacity: what all guests of one user may hold together
    message_rate: Positive = 2000  # messages a second of one guest, in the long run
    message_burst: Positive = 4000
    queue: Annotated[int, Meta(ge=16, le=65536)] = 256  # messages that wait for one guest
    idle_reader_seconds: Annotated[float, Meta(gt=0, le=3600)] = 10.0  # with a full queue, before it is cut off
    claim_seconds: Annotated[float, Meta(ge=0, le=3600)] = 10.0  # a guest of the last daemon has to come back
    answer_seconds: Annotated[float, Meta(gt=0, le=3600)] = 5.0  # a guest that was asked for memory has to answer


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a guest starts with, for the guests of a user, of a name, or of both; the first that fits counts."""

    uid: int | None = None
    user: str | None = None
    name: str | None = None  # with * and ?; guests choose their names, so it is safe only beside a user
    weight: Weight = 1
    cap: Size | None = None
    reservation: Size = 0

    def fits(self, uid: int, name: str) -> bool:
        """Whether it is for the guests of this user and name."""
        if self.uid is not None and self.uid != uid:
            return False
        if self.user is not None and not self._is_user(uid):
            return False
        return self.name is None or fnmatch.fnmatchcase(name, self.name)

    def _is_user(self, uid: int) -> bool:
        try:
            return user_number(self.user or "") == uid
        except ConfigError:
            return False  # it has been removed since the file was read


class Terms(Struct, frozen=True, kw_only=True):
    """What a rule comes to, in bytes."""

    weight: int = 1
    cap: int | None = None
    reservation: int = 0


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that can be set. The names are those of the file."""

    socket: str | None = None
    capacity: Size = "50%"
    policy: str = "weighted"
    extent: Size = "4M"
    report_ms: Annotated[int, Meta(ge=100, le=60_000)] = 1000
    metrics: Annotated[int, Meta(ge=0, le=65535)] = 0  # port on the loopback; 0 is off
    allow_overflow_uid: bool = False
    allow_invisible_pid: bool = False
    limits: Limits = Limits()
    guest: tuple[Rule, ...] = ()

    @property
    def extent_bytes(self) -> int:
        """The unit of a lease."""
        size = _size(self.extent, None, "extent")
        if size % MEBIBYTE or not _SMALLEST_EXTENT <= size <= _LARGEST_EXTENT:
            raise ConfigError(f"extent of {self.extent!r}: use whole MiB, from 1M to 64M")
        return size

    @property
    def capacity_bytes(self) -> int:
        """What may be leased, in whole extents."""
        allowed = allowance()
        size = _size(self.capacity, allowed.count, "capacity")
        if size > allowed.count:
            raise ConfigError(
                f"capacity of {format_size(size)} is more than the {format_size(allowed.count)} that {allowed.source} "
                "has: use less, or a share such as '50%'"
            )
        whole = size - size % self.extent_bytes
        if not whole:
            raise ConfigError(f"capacity of {format_size(size)} is less than one extent of {self.extent}: use more")
        return whole

    @property
    def user_bytes(self) -> int:
        """What all guests of one user may hold together."""
        return _size(self.limits.user_bytes, self.capacity_bytes, "user_bytes")

    def terms(self, uid: int, name: str, capacity: int | None = None) -> Terms:
        """Return what a new guest starts with; `capacity` is that of the host, which the limits of now may forbid."""
        for rule in self.guest:
            if not rule.fits(uid, name):
                continue
            whole = self.capacity_bytes if capacity is None else capacity
            return Terms(
                weight=rule.weight,
                cap=None if rule.cap is None else _size(rule.cap, whole, "cap"),
                reservation=_size(rule.reservation, whole, "reservation"),
            )
        return Terms()

    def check(self) -> Config:
        """Return itself. ConfigError where a value cannot be used."""
        if self.policy not in policies.NAMES:
            raise ConfigError(f"unknown policy {self.policy!r}: use one of {', '.join(policies.NAMES)}")
        whole = self.capacity_bytes
        _size(self.limits.user_bytes, whole, "user_bytes")
        for rule in self.guest:
            if rule.user is None and rule.uid is None and rule.name is None:
                raise ConfigError("a [[guest]] without user, uid and name fits everybody: use one, or name = '*'")
            if rule.user is not None:
                user_number(rule.user)
            if rule.cap is not None:
                _size(rule.cap, whole, "cap")
            _size(rule.reservation, whole, "reservation")
        return self

    def reloaded(self, new: Config) -> tuple[Config, list[str]]:
        """Return this configuration with what may change while the daemon runs, and the names of what had to stay."""
        kept = [name for name in self.__struct_fields__ if name not in _RELOADED]
        stays = [name for name in kept if getattr(self, name) != getattr(new, name)]
        return msgspec.structs.replace(new, **{name: getattr(self, name) for name in kept}).check(), stays


def load(path: str | None, told: dict[str, Any]) -> Config:
    """Return the configuration of a file (None: the usual one, if it is there), with what flags say instead."""
    text = ""
    where = path or FILE
    there = path is not None or os.path.exists(where)  # noqa: PTH110 - a name, as given
    try:
        if there:
            text = Path(where).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} cannot be read ({error}): check the name and who may read it") from None
    flags = "the flags" if told else "the defaults"
    return parse(text, f"{where} and {flags}" if there and told else where if there else flags, told)


def parse(text: str, where: str = "configuration", told: dict[str, Any] | None = None) -> Config:
    """Return the configuration in a text."""
    try:
        values = tomllib.loads(text)
        return msgspec.convert(values | (told or {}), Config).check()
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}; the example beside the systemd unit has every key") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def user_number(user: str) -> int:
    """Return the number of a user, by name or number. ConfigError where there is none of that name."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"no user {user!r} is here: use a name that `getent passwd` knows, or a number") from None


def _size(size: Size, whole: int | None, what: str) -> int:
    if size in (0, "0"):
        return 0
    try:
        return parse_size(size, whole=whole, what=what)
    except SizeError as error:
        raise ConfigError(str(error)) from None
