# SPDX-License-Identifier: Apache-2.0
"""A host as its operator meets it: capacity, guests, weights, caps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tmem
from tmem import Host, Pool, Reason
from tmem.host import MINIMUM_CAPACITY, PAGE_METADATA
from tmem.limits import allowance

PAGE = 4096


def noise(pages: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(pages * PAGE)


def fill(pool: Pool, pages: int, first: int = 0) -> int:
    codes = pool.put_many(0, range(first, first + pages), noise(pages, seed=first + 1))
    return int((codes == 0).sum())


@pytest.mark.parametrize(
    ("capacity", "count"), [("256M", 256 << 20), (1 << 20, 1 << 20), ("25%", None), ("auto", None)]
)
def test_capacity_is_a_size(capacity: Any, count: int | None) -> None:
    shares = {"25%": allowance().count // 4, "auto": allowance().count // 2}
    assert abs(Host(capacity).capacity - (count or shares[capacity])) <= 1


@pytest.mark.parametrize("capacity", [0, -1, MINIMUM_CAPACITY - 1, "900T", "2 apples", None])
def test_bad_capacity_is_refused(capacity: Any) -> None:
    with pytest.raises(tmem.SizeError):
        Host(capacity)
    with pytest.raises(tmem.SizeError):
        Host("1M").resize(capacity)


def test_capacity_covers_everything() -> None:
    host = Host("2M")
    pool = Pool(host=host)
    stored = fill(pool, 1000)
    assert 400 < stored < 512
    assert host.stats().footprint <= host.capacity
    assert host.stats().refused["store_full"] == 1000 - stored
    same = np.zeros((1024, PAGE), np.uint8)
    for n in range(100):
        pool.put_many(n + 1, range(0, 1 << 20, 1 << 10), same)
        assert host.stats().footprint <= host.capacity
    assert host.check() == []


def test_resize_takes_ephemeral_pages_and_leaves_persistent_ones() -> None:
    host = Host("8M")
    kept, cache = Pool(host=host), Pool(persistent=False, host=host)
    assert fill(kept, 300) == 300
    fill(cache, 1000)
    before = host.freeable
    host.resize("4M")
    assert host.capacity == 4 << 20
    assert host.stats().footprint <= host.capacity
    assert 0 < host.freeable < before
    host.resize("1M")
    assert host.freeable == 0
    assert kept.put(1, 0, noise(1)).reason is Reason.STORE_FULL  # type: ignore[union-attr]
    into = bytearray(300 * PAGE)
    assert kept.get_many(0, range(300), into).all()
    assert into == noise(300)
    host.resize("8M")
    assert kept.put(1, 0, noise(1))
    assert host.check() == []


def test_hog_gives_first_whoever_asks() -> None:
    host = Host("4M")
    modest, hog = (Pool(persistent=False, host=host, guest=name) for name in ("modest", "hog"))
    fill(modest, 50)  # the oldest: by age alone they would go first
    fill(hog, 2000)
    fill(Pool(host=host, guest="asking"), 300)
    guests = host.guests()
    assert guests["modest"].evicted == 0
    assert guests["modest"].pages == 50
    assert guests["hog"].evicted > 1000
    assert host.check() == []


def test_weight_is_the_right_to_more() -> None:
    host = Host("4M")
    host.set("heavy", weight=3)
    pools = [Pool(persistent=False, host=host, guest=name) for name in ("heavy", "light")]
    for first in range(0, 3000, 50):
        for pool in pools:
            fill(pool, 50, first)
    heavy, light = (host.guests()[name].charge for name in ("heavy", "light"))
    assert heavy / light == pytest.approx(3, rel=0.1)


def test_cap_costs_its_guest_and_nobody_else() -> None:
    host = Host("8M")
    other, mine = (Pool(persistent=False, host=host, guest=name) for name in ("other", "mine"))
    kept = Pool(host=host, guest="mine")
    fill(other, 100)
    host.set("mine", cap=100 * (PAGE + PAGE_METADATA))
    assert fill(mine, 150) == 150
    assert host.guests()["mine"].pages == 100
    assert fill(kept, 101) == 100
    assert host.guests()["mine"].freeable == 0
    assert kept.stats().refused["over_cap"] == 1
    host.set("mine", weight=5)
    assert host.guests()["mine"].cap is not None  # what is not named stays
    host.set("mine", cap=None)
    assert fill(kept, 200) == 200
    assert host.guests()["other"].evicted == 0
    assert host.check() == []


@pytest.mark.parametrize(
    ("arguments", "error"), [({"weight": -1}, ValueError), ({"weight": 2**32}, ValueError), ({"cap": -1}, ValueError)]
)
def test_bad_settings_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    host = Host("1M")
    with pytest.raises(error):
        host.set("guest", **arguments)
    assert set(host.guests()) == {"default"}


def test_guest_is_frozen_with_all_its_pools() -> None:
    host = Host("1M")
    pools = [Pool(host=host, guest="g"), Pool(persistent=False, host=host, guest="g")]
    free = Pool(host=host)
    assert host.freeze("g") == 2
    assert [pool.frozen for pool in (*pools, free)] == [True, True, False]
    assert host.thaw("g") == 2
    assert not any(pool.frozen for pool in pools)
    with pytest.raises(KeyError, match="nobody"):
        host.freeze("nobody")


def test_counters_add_up() -> None:
    host = Host("2M")
    pools = [Pool(persistent=n == 0, host=host, guest=f"g{n % 2}") for n in range(3)]
    for pool in pools:
        fill(pool, 300)
        pool.get_many(0, range(300), bytearray(300 * PAGE))
    whole, parts = host.stats(), [pool.stats() for pool in pools]
    for name in ("puts", "succ_puts", "failed_puts", "gets", "succ_gets", "evicted", "pages"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts), name
    guests = host.guests().values()
    assert sum(guest.pages for guest in guests) == whole.pages
    assert sum(guest.freeable for guest in guests) == host.freeable == whole.freeable
    assert sum(guest.evicted for guest in guests) == whole.evicted
    assert whole.puts == whole.succ_puts + whole.failed_puts
    assert whole.as_dict()["pages"] == whole.pages
    assert repr(host) == "<tmem.Host capacity=2.0 MiB>"
