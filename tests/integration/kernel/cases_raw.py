# SPDX-License-Identifier: Apache-2.0
"""Vectors and offsets in paged memory, random bytes, other processes' memory, standard input of a child."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from typing import cast

import numpy as np

from tests.integration.kernel.ground import PAGE, Bytes, Ground, call, digest, libc

SYS_SPLICE, SYS_READV, SYS_VM_READV, SYS_VM_WRITEV, SYS_GETRANDOM = 275, 19, 310, 311, 318


def _vector(g: Ground, *pieces: Bytes) -> Bytes:
    room = g.room(PAGE)
    packed = b"".join(struct.pack("2Q", piece.ctypes.data, piece.nbytes) for piece in pieces)
    room[: len(packed)] = np.frombuffer(packed, "u1")
    return room


def splice_with_offsets_in_paged_memory(g: Ground) -> object:
    place = g.room(PAGE)
    path = g.folder / "spliced"
    path.write_bytes(bytes(range(256)) * 64)
    place.view("i8")[3] = 777
    source, sink = os.pipe()
    with path.open("rb") as file:
        g.gone(place)
        moved = call(SYS_SPLICE, file.fileno(), place.ctypes.data + 24, sink, 0, 5000, 0)
    said = os.read(source, 9000)
    os.close(source)
    os.close(sink)
    return moved, int(place.view("i8")[3]), said


def vector_itself_in_paged_memory(g: Ground) -> object:
    b = g.room(3 * PAGE)
    vector = _vector(g, b[:5000], b[6000:])
    source, sink = os.pipe()
    os.write(sink, bytes(range(256)) * 40)
    g.gone(b, vector)
    read = call(SYS_READV, source, vector.ctypes.data, 2)
    os.close(source)
    os.close(sink)
    return read, digest(b)


def own_memory_by_process_id(g: Ground) -> object:
    a, b = g.array(5 * PAGE), g.array(5 * PAGE, 2)
    here, there = _vector(g, b[10:7000]), _vector(g, a[5000 : 5000 + 6990])
    g.gone(a, b, here, there)
    read = call(SYS_VM_READV, os.getpid(), here.ctypes.data, 1, there.ctypes.data, 1, 0)
    after = digest(b)
    g.gone(a, b, here, there)
    return read, after, call(SYS_VM_WRITEV, os.getpid(), here.ctypes.data, 1, there.ctypes.data, 1, 0), digest(a)


def random_bytes(g: Ground) -> object:
    b = g.room(8 * PAGE)
    g.gone(b)
    got = call(SYS_GETRANDOM, b.ctypes.data + 100, 6 * PAGE, 0)
    pages = [bool(b[100 + i * PAGE : 100 + (i + 1) * PAGE].any()) for i in range(6)]
    return got, pages, bool(b[:100].any()), bool(b[100 + 6 * PAGE :].any())


def facts_of_the_process(g: Ground) -> object:
    """Structures that calls fill: each is written whole, across a page's end."""
    b = g.room(3 * PAGE)
    at = b.ctypes.data + PAGE - 12
    told: list[object] = []
    calls = (("uname", at), ("getrlimit", 7, at), ("getresuid", at, at + 4, at + 8))
    for function, *arguments in calls:
        b[:] = 0
        g.gone(b)
        told.append((libc(function, *arguments), digest(b)))
    g.gone(b)
    told.append(libc("sched_getaffinity", 0, 128, at))
    told.append(digest(b))
    return told


def directory_entries(g: Ground) -> object:
    b = g.room(4 * PAGE)
    folder = g.folder / "entries"
    folder.mkdir()
    for number in range(100):
        (folder / f"entry-{number}").touch()
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    total = 0
    while True:
        g.gone(b)
        got = call(217, fd, b.ctypes.data + PAGE - 8, 2 * PAGE)
        if got == 0:
            break
        total += got
    os.close(fd)
    return total


def standard_input_of_a_child(g: Ground) -> object:
    a = g.array(300_001)
    code = "import sys, hashlib; print(hashlib.blake2b(sys.stdin.buffer.read()).hexdigest())"
    g.gone(a)
    with subprocess.Popen(["/usr/bin/env", "cksum"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        said = child.communicate(a.data)[0]
    if os.access(sys.executable, os.X_OK):
        g.gone(a)
        ran = subprocess.run([sys.executable, "-S", "-c", code], input=a.data, capture_output=True, check=False)
        return said, ran.stdout
    return said, b""


def output_of_a_child_into_paged_memory(g: Ground) -> object:
    b = g.room(100_000)
    with subprocess.Popen(["/usr/bin/seq", "1", "15000"], stdout=subprocess.PIPE) as child:
        g.gone(b)
        return cast("io.BufferedReader", child.stdout).readinto(b), digest(b)
