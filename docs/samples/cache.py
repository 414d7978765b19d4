# SPDX-License-Identifier: Apache-2.0
"""A cache with a bound that holds: by itself, around a function, and on the spare room of a Memory."""

import json

import numpy as np

import tmem

cache = tmem.Cache("16M")  # keys, values, tables: never more than that
cache["user", 7] = b"some bytes"
print(cache["user", 7], cache.get(("user", 8)), len(cache))
for n in range(5000):
    cache["blob", n] = np.random.default_rng(n).bytes(10_000)  # 50 MB in all
stats = cache.stats()
print("within its bound:", stats.bytes <= cache.max_bytes, "- the oldest went:", stats.evicted > 3000)
print("the youngest is there:", ("blob", 4999) in cache, "- the first:", ("user", 7) in cache)


class AsJson:
    """Values that JSON knows, as bytes."""

    def dumps(self, value: object) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> object:
        return json.loads(data)


answers = tmem.Cache("16M", serializer=AsJson())


@answers.memoize(ignore={"verbose"})
def factors(number: int, *, verbose: bool = False) -> list[int]:
    if verbose:
        print("working on", number)
    return [n for n in range(1, number + 1) if number % n == 0]


print(factors(28, verbose=True), factors(28, verbose=True))
del answers[factors.cache_key(28)]  # one result

mem = tmem.Memory("64M", swap="256M")
spare = tmem.Cache("100%", memory=mem)  # only what the arrays leave
for n in range(1200):
    spare[n] = np.random.default_rng(n).bytes(45_000)
before = len(spare)
table = mem.zeros((1000, 2000), "f8")  # 16 MB, for which the cache makes room
table[:] = np.arange(2000)
print("a plain array made the cache smaller:", 0 < len(spare) < before, "- paging:", bool(mem.stats().armed))
large = mem.zeros((5000, 2000), "f8")
large[:] = np.arange(2000)
print("entries beside arrays past the budget:", len(spare))

for each in (cache, answers, spare):
    each.close()
