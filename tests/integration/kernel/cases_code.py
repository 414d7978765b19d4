# SPDX-License-Identifier: Apache-2.0
"""C code that works on a buffer by itself, with and without the interpreter's lock."""

from __future__ import annotations

import base64
import binascii
import ctypes
import hashlib
import pickle
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.integration.kernel.ground import Ground, digest, libc

SIZE = 500_003


def compression(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    g.gone(a)
    packed = zlib.compress(a.data, 1)
    g.gone(a, b)
    b[:] = np.frombuffer(zlib.decompress(packed), "u1")
    return packed, zlib.crc32(a), zlib.adler32(a), digest(b)


def digests(g: Ground) -> object:
    a = g.array(SIZE)
    told = []
    for name in ("md5", "sha1", "sha256", "sha3_256", "blake2b", "blake2s"):
        g.gone(a)
        told.append(hashlib.new(name, a).hexdigest())
    g.gone(a)
    return told, binascii.crc32(a), hashlib.pbkdf2_hmac("sha256", a[:9000], a[9000:10_000], 2)


def digests_by_threads_at_once(g: Ground) -> object:
    a = g.array(SIZE)
    g.gone(a)
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda i: hashlib.sha256(a[i * 60_000 : i * 60_000 + 90_000]).hexdigest(), range(8))
        return list(parts)


def structures(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    g.gone(a, b)
    struct.pack_into("<3qd4s", b, 4090, 1, -2, 3, 0.5, b"four")
    return struct.unpack_from("<9qf", a, 4077), digest(b), sum(x for (x,) in struct.iter_unpack("<H", a[1:60_001]))


def memory_moves(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    g.gone(a, b)
    ctypes.memmove(b.ctypes.data + 5, a.ctypes.data + 4000, 400_000)
    after = digest(b)
    g.gone(a, b)
    ctypes.memmove(a.ctypes.data + 100, a.ctypes.data, 300_000)
    g.gone(a, b)
    ctypes.memset(b.ctypes.data + 4000, 0x5A, 200_000)
    g.gone(a, b)
    libc("memcpy", b.ctypes, a.ctypes.data + 7, 250_000)
    order = libc("memcmp", b.ctypes, a.ctypes.data + 7, 250_000)
    return after, digest(a), digest(b), order


def buffers(g: Ground) -> object:
    a = g.array(SIZE)
    told = []
    for function in (bytes, bytearray, memoryview.tobytes, base64.b64encode):
        g.gone(a)
        told.append(digest(np.frombuffer(function(a.data), "u1")))
    g.gone(a)
    found = [match.start() for match in re.finditer(rb"\x00\x01", a.data)]
    return told, len(found), found[:50]


def pickles(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    apart: list[pickle.PickleBuffer] = []
    g.gone(a)
    inside = pickle.dumps(a, 4)
    g.gone(a)
    outside = pickle.dumps(a, 5, buffer_callback=apart.append)
    g.gone(a, b)
    b[:] = pickle.loads(outside, buffers=apart)
    return digest(pickle.loads(inside)), digest(b)


def sorting_and_searching(g: Ground) -> object:
    a = g.array(SIZE - 3).view("u2")
    g.gone(a.base)
    a.sort()
    g.gone(a.base)
    places = np.searchsorted(a, np.arange(0, 65_536, 999))
    g.gone(a.base)
    return digest(a), places.tolist(), int(np.median(a)), float(np.dot(a.astype("f4"), a)), np.unique(a[::97]).size
