# SPDX-License-Identifier: Apache-2.0
"""A cache: values by key, compressed, in a fixed number of bytes or in what a Memory does not need.

Owns: what a caller may ask of a cache. Called by users. Calls cachekey, limits, units and the native module, which
keeps keys and values; nothing of an entry is kept in Python.
Laws: a put that is refused leaves nothing under its key (3); an entry comes back exactly or not at all (6); everything
counts in `max_bytes`, and in the Memory's budget (13).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, ItemsView, Iterator, MutableMapping, ValuesView
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final, NoReturn, ParamSpec, Protocol, Self, TypeAlias, TypeVar, cast

from tmem import _core
from tmem.cachekey import Key, call_key, from_bytes, to_bytes
from tmem.errors import SizeError
from tmem.kinds import Size
from tmem.limits import allowance
from tmem.memory import Memory, native
from tmem.units import format_size, parse_size

__all__ = ["Cache", "CacheStats", "Serializer"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)

_MISSING: Final = object()


class _Serializer(Protocol):
    """What turns values into bytes and back: `json`-like modules whose `dumps` gives bytes, or an object of yours."""

    def dumps(self, value: Any, /) -> Any: ...
    def loads(self, data: Any, /) -> Any: ...


Serializer: TypeAlias = _Serializer | tuple[Callable[[Any], Any], Callable[[bytes], Any]]
"""An object with `dumps` and `loads`, or the two functions."""


class _Memoized(Protocol[_P, _R_co]):
    """A function whose results are kept."""

    __wrapped__: Callable[..., Any]

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co: ...
    def cache_key(self, *args: _P.args, **kwargs: _P.kwargs) -> Key: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """One reading of a cache's counters. Sizes are bytes."""

    max_bytes: int = 0  # the most that it may ever take
    limit: int = 0  # what it may take now: less than max_bytes where it lives on a Memory's spare room
    bytes: int = 0  # what it takes: entries, keys, tables
    entries: int = 0
    pages: int = 0  # that the entries lie on
    hits: int = 0
    misses: int = 0
    stored: int = 0
    refused: int = 0  # entries for which there was no room; what the key had before is gone
    evicted: int = 0  # entries forgotten to make room

    def as_dict(self) -> dict[str, object]:
        """Return every counter, ready for JSON."""
        return asdict(self)


class Cache(MutableMapping[Key, Any]):
    """Values by key, compressed in memory, of which the least recently used ones go when there is no room.

    `max_bytes` bounds everything that it takes, tables included: bytes, or text such as `256M` and `10%`. With `memory`
    it takes only what that Memory has to spare, which counts in the Memory's budget, and gives it back, oldest entries
    first, before any page of an array has to leave; a share then is one of the Memory's `ram`.
    `serializer` is an object with `dumps` and `loads`, or the two functions. Without one, values are bytes-like (any
    contiguous buffer), and come back as bytes. `name` shows in its repr.

    A key is a str, bytes, int, float, bool, None, or a tuple of these. Keys of different types are different keys: 1,
    1.0 and True are three.

    It is a MutableMapping whose entries may vanish at any time. A read makes an entry young; `in` and iteration do not.
    Iteration shows each key at most once, of those that were there at its beginning and have not gone or changed.
    Several threads may use it at once; a forked child has a copy of its own. Two caches are equal only if they are one.

    Raises SizeError for a max_bytes below 1 MiB or above what may be used, TypeError for a serializer that is none,
    ClosedError for a Memory that is closed, BudgetError for one that lends to 32 caches.
    """

    def __init__(
        self,
        max_bytes: Size,
        *,
        memory: Memory | None = None,
        serializer: Serializer | None = None,
        name: str | None = None,
    ) -> None:
        self._dumps, self._loads = _functions(serializer)
        self._most = _most(max_bytes, memory)
        self._name = name
        self._core = _core.Cache(self._most, memory=None if memory is None else native(memory))

    # Entries

    def __getitem__(self, key: Key) -> Any:
        """Return the value of a key, which is young now. KeyError where there is none."""
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def get(self, key: Key, default: Any = None) -> Any:
        """Return the value of a key, which is young now, or `default` where there is none."""
        return self._value(self._core.get(to_bytes(key), young=True), default)

    def __setitem__(self, key: Key, value: Any) -> None:
        """Put a value. It may be gone at once, where there is no room; what the key had is gone in any case.

        ValueError for one that is larger than `max_bytes`, TypeError for one that is not bytes-like where there is
        no serializer.
        """
        self._put(key, value if self._dumps is None else self._dumps(value))

    def __delitem__(self, key: Key) -> None:
        """Forget an entry. KeyError where there is none."""
        if not self._core.remove(to_bytes(key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        """Tell whether a key has an entry now, which gets no younger."""
        return self._core.contains(to_bytes(cast("Key", key)))

    def __len__(self) -> int:
        """Return how many entries there are now."""
        return self._core.count()

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the keys, in no particular order."""
        newest, at = self._core.newest, 0
        while True:
            at, keys = self._core.keys(at, newest)
            if not keys:
                return
            yield from map(from_bytes, keys)

    def items(self) -> ItemsView[Key, Any]:
        """Return a view of (key, value); to look through it makes nothing young."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Return a view of the values; to look through it makes nothing young."""
        return _Values(self)

    def pop(self, key: Key, default: Any = _MISSING) -> Any:
        """Return the value of a key and forget it; `default`, or KeyError, where there is none."""
        value = self._value(self._core.take(to_bytes(key)), default)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def popitem(self) -> tuple[Key, Any]:
        """Return the entry that was put or read longest ago, and forget it. KeyError where there is none."""
        while (key := self._core.oldest()) is not None:
            value = self._value(self._core.take(key), _MISSING)
            if value is not _MISSING:
                return from_bytes(key), value
        raise KeyError("the cache is empty")

    def setdefault(self, key: Key, default: Any = None) -> Any:
        """Return the value of a key; where there is none, put `default` and return it."""
        value = self.get(key, _MISSING)
        if value is _MISSING:
            self[key] = value = default
        return value

    def clear(self) -> None:
        """Forget every entry."""
        self._core.clear()

    def memoize(
        self, name: str | None = None, *, typed: bool = False, ignore: Collection[int | str] = ()
    ) -> Callable[[Callable[_P, _R]], _Memoized[_P, _R]]:
        """Return a decorator that keeps a function's results here, by its arguments as they are passed.

        `name` stands for the function in the keys: by default its module and qualified name. With `typed`, arguments
        that are equal but of different types (1, 1.0, True) have results of their own. `ignore` names arguments that do
        not matter, by position or by name. The decorated function has the plain one as `__wrapped__`, and `cache_key`,
        which returns the key for some arguments: `del cache[f.cache_key(1)]`.

        Arguments must be keys, and results what the cache keeps. A result that is too large is returned and not kept.
        """

        def decorate(function: Callable[_P, _R]) -> _Memoized[_P, _R]:
            known = name or f"{function.__module__}.{function.__qualname__}"

            def cache_key(*args: _P.args, **kwargs: _P.kwargs) -> Key:
                return call_key(known, args, kwargs, typed=typed, ignore=ignore)

            @functools.wraps(function)
            def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
                key = cache_key(*args, **kwargs)
                result = self.get(key, _MISSING)
                if result is _MISSING:
                    result = function(*args, **kwargs)
                    self._keep(key, result)
                return cast("_R", result)

            wrapper.cache_key = cache_key  # type: ignore[attr-defined]
            return cast("_Memoized[_P, _R]", wrapper)

        return decorate

    # The cache

    def close(self) -> None:
        """Forget everything and give all memory back. Twice does no harm; any other use is then a ClosedError."""
        self._core.close()

    def stats(self) -> CacheStats:
        """Return the counters as they are now."""
        return CacheStats(**self._core.stats())

    def check(self) -> list[str]:
        """Walk everything and return each broken law in words; an empty list when all is sound. Slow."""
        return self._core.check()

    @property
    def max_bytes(self) -> int:
        """The most that it may take, in bytes."""
        return self._most

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._core.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        name = f" {self._name!r}" if self._name else ""
        return f"<tmem.Cache{name} max_bytes={format_size(self._most)}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Cache cannot be pickled: it is memory of this process; make one there, or fork")

    # Within

    def _value(self, data: bytes | None, default: Any) -> Any:
        if data is None:
            return default
        return data if self._loads is None else self._loads(data)

    def _put(self, key: Key, data: Any) -> None:
        try:
            self._core.put(to_bytes(key), data)
        except TypeError as error:
            raise TypeError(f"{error}: pass serializer=(dumps, loads) for other values") from None

    def _keep(self, key: Key, result: Any) -> None:
        """Put a result, unless it is too large."""
        data = result if self._dumps is None else self._dumps(result)
        with contextlib.suppress(ValueError):
            self._put(key, data)

    def _look(self) -> Iterator[tuple[Key, Any]]:
        """Yield (key, value) of what is there, and make nothing young."""
        for key in self:
            value = self._value(self._core.get(to_bytes(key), young=False), _MISSING)
            if value is not _MISSING:
                yield key, value


class _Items(ItemsView[Key, Any]):
    _mapping: Cache

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        return self._mapping._look()  # noqa: SLF001 - a part of it


class _Values(ValuesView[Any]):
    _mapping: Cache

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._look())  # noqa: SLF001 - a part of it


def _functions(serializer: Serializer | None) -> tuple[Callable[[Any], Any] | None, Callable[[bytes], Any] | None]:
    if serializer is None:
        return None, None
    pair = serializer if isinstance(serializer, tuple) else (_part(serializer, "dumps"), _part(serializer, "loads"))
    if len(pair) != len(("dumps", "loads")) or not all(map(callable, pair)):
        raise TypeError(f"serializer must have dumps and loads, or be the two functions, not {serializer!r}")
    return pair


def _part(serializer: object, name: str) -> Any:
    return getattr(serializer, name, None)


def _most(max_bytes: Size, memory: Memory | None) -> int:
    if memory is None:
        allowed = allowance()
        whole, source = allowed.count, allowed.source
    else:
        whole, source = memory.ram, f"the Memory {memory.name!r}"
    count = parse_size(max_bytes, whole=whole, what="max_bytes")
    if count < _core.MIN_HOST:
        raise SizeError(
            f"max_bytes of {format_size(count)} is below the minimum of {format_size(_core.MIN_HOST)}: "
            "ask for that or more"
        )
    if count > whole:
        raise SizeError(
            f"max_bytes of {format_size(count)} is more than the {format_size(whole)} that {source} has: ask for less, "
            "or for a share such as '25%'"
        )
    return count
