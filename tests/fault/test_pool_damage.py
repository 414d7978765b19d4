# SPDX-License-Identifier: Apache-2.0
"""Stray writes into a host's memory, and address space that is not to be had: errors, and never other bytes."""

from __future__ import annotations

import subprocess
import sys

DAMAGE = """
import numpy as np
import tmem
from tmem import _core

host = tmem.Host("4M")
host._core = _core.Host(4 << 20, reserve=4 << 20)  # little address space, so that all of it can be searched
pool, cache = tmem.Pool(host=host), tmem.Pool(persistent=False, host=host)
text = b"a text of sixty-seven bytes, which is no record that any packer knows!"[:67]
page = np.resize(np.frombuffer(text, np.uint8), 4096)  # bytes that LZ4 keeps as they are, then text
page[:1000] = np.frombuffer(np.random.default_rng(3).bytes(1000), np.uint8)
assert pool.put(1, 0, page) and pool.put(1, 1, b"ab" * 2048) and cache.put(1, 0, b"cd" * 2048)
literals, hit = page[8:200].tobytes(), 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "r+b", buffering=0) as memory:
    for line in maps:
        fields = line.split()
        start, end = (int(word, 16) for word in fields[0].split("-"))
        if fields[1] != "rw-p" or len(fields) > 5 or end - start > 256 << 20:
            continue
        memory.seek(start)
        whole, at = memory.read(end - start), -1
        while (at := whole.find(literals, at + 1)) >= 0:
            # Packed bytes begin at a slot: the codec's name, then how many bytes do not shrink (six), then those.
            if at % 64 == 1 + 6 + 8:
                memory.seek(start + at - at % 64)
                memory.write(bytes([255]) * 64)
                hit += 1
assert hit in (1, 2), hit  # the codec's buffer may still have them, too
one, two = bytearray(4096), bytearray(8192)
for verb, *arguments in ((pool.get, 1, 0), (pool.get, 1, 0, one), (pool.get_many, 1, [1, 0], two)):
    try:
        verb(*arguments)
    except tmem.PageLostError as error:
        assert "overwritten" in str(error), error
    else:
        raise SystemExit("other bytes came back")
assert pool.get(1, 1) == b"ab" * 2048 and cache.get(1, 0) == b"cd" * 2048
assert pool.put(1, 0, page) and pool.get(1, 0) == page.tobytes()
print("done")
"""
NO_ROOM = """
import resource
import tmem

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    tmem.Host("64M")
except tmem.BudgetError as error:
    assert "ulimit -v" in str(error), error
    print("done")
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_overwritten_page_is_an_error_and_never_other_bytes() -> None:
    run(DAMAGE)


def test_host_without_address_space_is_refused_by_name() -> None:
    run(NO_ROOM)
