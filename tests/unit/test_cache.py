# SPDX-License-Identifier: Apache-2.0
"""A cache as a Python user meets it: a mapping that may forget, serializers, memoize, ends."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tmem
from tmem import Cache, Memory


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache("8M") as made:
        yield made
        if not made.closed:
            assert made.check() == []
            assert made.stats().bytes <= made.max_bytes


@pytest.mark.parametrize("size", [0, 1, 100, 400, 4000, 4096, 70_000, 1 << 20, 5 << 20])
def test_a_value_of_any_length_comes_back(cache: Cache, size: int) -> None:
    value = noise(size)
    cache["k"] = value
    assert cache["k"] == value
    assert type(cache["k"]) is bytes
    assert len(cache) == 1
    cache["k"] = value[: size // 2]
    assert cache["k"] == value[: size // 2]


def test_a_key_that_is_very_long_is_compared_whole(cache: Cache) -> None:
    keys = ["x" * 100_000 + end for end in "ab"]
    cache[keys[0]] = b"1"
    assert keys[1] not in cache
    cache[keys[1]] = b"2"
    assert [cache[key] for key in keys] == [b"1", b"2"]
    assert set(cache) == set(keys)


def test_it_is_a_mapping(cache: Cache) -> None:
    cache.update({"a": b"1", 2: b"2", (3, b"c"): b"3"})
    assert dict(cache.items()) == {"a": b"1", 2: b"2", (3, b"c"): b"3"}
    assert sorted(cache.values()) == [b"1", b"2", b"3"]
    assert ("a", b"1") in cache.items()
    assert set(cache.keys()) == {"a", 2, (3, b"c")}
    assert cache.get("b") is None
    assert cache.get("b", 7) == 7
    assert cache.setdefault("a", b"x") == b"1"
    assert cache.setdefault("d", b"4") == b"4" == cache["d"]
    assert cache.pop("d") == b"4"
    assert cache.pop("d", None) is None
    with pytest.raises(KeyError, match="d"):
        cache.pop("d")
    with pytest.raises(KeyError, match="d"):
        cache["d"]
    del cache["a"]
    with pytest.raises(KeyError, match="a"):
        del cache["a"]
    cache.clear()
    assert (len(cache), list(cache), cache.stats().pages) == (0, [], 0)
    with pytest.raises(KeyError, match="empty"):
        cache.popitem()


def test_popitem_takes_the_one_used_longest_ago(cache: Cache) -> None:
    for key in "abcd":
        cache[key] = key.encode()
    assert cache["a"] == b"a"  # young now
    assert "b" in cache  # no younger for it
    assert list(cache.items())
    assert [cache.popitem()[0] for _ in range(4)] == ["b", "c", "d", "a"]


def test_the_bound_covers_everything_and_the_oldest_go(cache: Cache) -> None:
    for n in range(3000):
        cache[n] = noise(5000, n)
        if n % 500 == 0:
            assert cache.stats().bytes <= cache.max_bytes
    stats = cache.stats()
    assert stats.evicted > 1000
    assert stats.entries == len(cache) == len(list(cache)) == 3000 - stats.evicted
    assert set(cache) == set(range(stats.evicted, 3000))
    assert cache[2999] == noise(5000, 2999)


def test_small_values_take_little_more_than_themselves() -> None:
    with Cache("4M") as cache:
        for n in range(20_000):
            cache[n] = noise(100, n)
        assert len(cache) > (4 << 20) // 500


def test_reads_keep_an_entry(cache: Cache) -> None:
    cache["hot"] = noise(5000, 99)
    for n in range(4000):
        cache[n] = noise(5000, n % 50)
        assert cache["hot"] == noise(5000, 99) if n % 100 == 0 else True
    assert "hot" in cache
    assert cache.stats().evicted > 1000


def test_a_value_that_is_too_large_is_refused_and_the_old_one_gone(cache: Cache) -> None:
    cache["k"] = b"old"
    with pytest.raises(ValueError, match="too large"):
        cache["k"] = bytes(cache.max_bytes + 1)
    assert "k" not in cache
    cache["k"] = b"old"
    cache["k"] = noise(cache.max_bytes - 1000)  # no room beside the tables
    assert "k" not in cache
    assert cache.stats().refused == 2


def test_iteration_goes_on_while_entries_vanish_and_come(cache: Cache) -> None:
    for n in range(500):
        cache[n] = b"v"
    seen: list[int] = []
    for key in cache:
        assert isinstance(key, int)
        n = key
        seen.append(n)
        cache[n] = b"w"
        cache[f"new {n}"] = b"x"
        cache.pop((n + 1) % 500, None)
        if len(seen) == 100:
            cache.clear()
    assert 100 <= len(seen) == len(set(seen)) <= 500
    cache.update(dict.fromkeys(range(100), b"v"))
    items = iter(cache.items())
    next(items)
    cache.clear()
    assert list(items) == []


@pytest.mark.parametrize(
    "value", [b"abc", bytearray(b"abc"), memoryview(b"abc"), np.arange(600.0).reshape(20, 30).T, np.array(7)]
)
def test_any_contiguous_buffer_is_a_value(cache: Cache, value: Any) -> None:
    cache["k"] = value
    assert cache["k"] == (value.tobytes("A") if isinstance(value, np.ndarray) else bytes(value))


@pytest.mark.parametrize("value", ["text", 1, None, [1], np.array([object()])])
def test_other_values_need_a_serializer(cache: Cache, value: Any) -> None:
    with pytest.raises(TypeError, match="serializer="):
        cache["k"] = value
    assert "k" not in cache


def test_a_value_is_a_copy(cache: Cache) -> None:
    value = bytearray(b"abc")
    cache["k"] = value
    value[0] = 0
    assert cache["k"] == b"abc"


class AsJson:
    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


@pytest.mark.parametrize("serializer", [AsJson(), (AsJson().dumps, json.loads)])
def test_a_serializer_takes_other_values(serializer: Any) -> None:
    with Cache("1M", serializer=serializer) as cache:
        cache["k"] = {"a": [1, 2.5, None]}
        assert cache["k"] == cache.get("k") == cache.pop("k") == {"a": [1, 2.5, None]}
        cache["none"] = None
        assert cache["none"] is None
        assert cache.get("none", 1) is None
        assert list(cache.values()) == [None]
        assert cache.popitem() == ("none", None)


@pytest.mark.parametrize("serializer", [object(), (json.dumps,), (1, 2), json.dumps])
def test_what_is_no_serializer_is_refused(serializer: Any) -> None:
    with pytest.raises(TypeError, match="serializer"):
        Cache("1M", serializer=serializer)


def test_memoize_keeps_results_by_their_arguments(cache: Cache) -> None:
    calls = []

    @cache.memoize(ignore={"log"})
    def double(x: Any, *, log: Any = None) -> bytes:  # noqa: ARG001 - it is ignored
        """Double it."""
        calls.append(x)
        return bytes([2 * int(x)])

    assert [double(2), double(2), double(2, log=[]), double(2.0)] == [b"\4"] * 4
    assert calls == [2]
    assert (double.__doc__, double.__wrapped__(3)) == ("Double it.", b"\6")
    key = double.cache_key(2)
    assert cache[key] == b"\4"
    del cache[key]
    double(2)
    assert calls == [2, 3, 2]
    with pytest.raises(TypeError, match="a key is"):
        double([2])


def test_memoize_tells_types_and_names_apart(cache: Cache) -> None:
    typed = cache.memoize("f", typed=True)(lambda x: repr(x).encode())
    assert [typed(each) for each in (1, 1.0, True, 1)] == [b"1", b"1.0", b"True", b"1"]
    other = cache.memoize("g", typed=True)(lambda x: b"other")  # noqa: ARG005
    assert (other(1), typed(1)) == (b"other", b"1")


def test_memoize_returns_what_it_cannot_keep(cache: Cache) -> None:
    large = cache.memoize()(lambda: bytes(cache.max_bytes + 1))
    assert len(large()) == len(large()) == cache.max_bytes + 1
    assert cache.stats().refused == 2
    no_bytes = cache.memoize()(lambda: 7)
    with pytest.raises(TypeError, match="serializer="):
        no_bytes()


def test_memoize_passes_a_serializers_error_on() -> None:
    def dumps(value: Any) -> bytes:  # noqa: ARG001 - it refuses all
        raise ValueError("not that")

    with Cache("1M", serializer=(dumps, bytes)) as cache, pytest.raises(ValueError, match="not that"):
        cache.memoize()(lambda: 1)()


def test_cachetools_takes_it_as_its_cache(cache: Cache) -> None:
    cachetools = pytest.importorskip("cachetools")
    calls = []

    @cachetools.cached(cache)  # type: ignore[untyped-decorator]
    def work(size: int, letter: str = "x") -> bytes:
        calls.append(size)
        return letter.encode() * size

    assert work(3) == work(3) == b"xxx"
    assert work(3, "y") == b"yyy"
    assert len(work(cache.max_bytes + 1)) == cache.max_bytes + 1  # too large to keep
    assert calls == [3, 3, cache.max_bytes + 1]
    with pytest.raises(TypeError, match="a key is"):
        work(3, letter="y")  # its keys of named arguments hold a class
    named = cachetools.cached(cache, key=lambda **named: ("work", *named.items()))(lambda letter: letter.encode())
    assert named(letter="z") == named(letter="z") == cache["work", ("letter", "z")] == b"z"


@pytest.mark.parametrize("size", [0, 1 << 19, "900T", "2 apples", None])
def test_bad_bounds_are_refused(size: Any) -> None:
    with pytest.raises(tmem.SizeError):
        Cache(size)
    with Memory("16M", swap=None) as memory, pytest.raises(tmem.SizeError):
        Cache("17M" if size == "900T" else size, memory=memory)


def test_a_closed_cache_says_so(cache: Cache) -> None:
    cache["k"] = b"v"
    cache.close()
    cache.close()
    assert cache.closed
    uses: list[Callable[[], Any]] = [
        lambda: cache["k"],
        lambda: len(cache),
        lambda: list(cache),
        cache.stats,
        cache.popitem,
        cache.clear,
        lambda: cache.get("k"),
    ]
    for use in uses:
        with pytest.raises(tmem.ClosedError, match="make a new Cache"):
            use()
    assert repr(cache) == "<tmem.Cache max_bytes=8.0 MiB closed>"


def test_it_is_itself_and_nothing_else(cache: Cache) -> None:
    assert cache == cache  # noqa: PLR0124 - is what it says
    assert cache != {}
    assert {cache: 1}[cache] == 1
    assert repr(Cache("1M", name="mine")) == "<tmem.Cache 'mine' max_bytes=1.0 MiB>"
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickled"):
            act(cache)


def test_counters_add_up(cache: Cache) -> None:
    cache.update(dict.fromkeys(range(10), b"v"))
    for n in range(15):
        cache.get(n)
    cache.pop(3)
    del cache[4]
    assert 5 in cache
    stats = cache.stats()
    assert (stats.entries, stats.stored, stats.hits, stats.misses) == (8, 10, 11, 5)
    assert (stats.refused, stats.evicted, stats.max_bytes, stats.limit) == (0, 0, 8 << 20, 8 << 20)
    assert stats.as_dict()["hits"] == 11


def test_a_cache_that_nobody_has_gives_its_room_back() -> None:
    with Memory("32M", swap=None) as memory:
        cache = Cache("16M", memory=memory)
        cache["k"] = noise(1 << 20)
        assert memory.stats().lent > 1 << 20
        assert memory.stats().used >= memory.stats().lent
        del cache
        gc.collect()
        assert memory.stats().lent == 0
