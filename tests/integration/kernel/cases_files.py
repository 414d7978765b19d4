# SPDX-License-Identifier: Apache-2.0
"""Files: whole arrays by NumPy, buffered and raw objects, vectors, offsets, direct transfers, mappings."""

from __future__ import annotations

import codecs
import io
import mmap
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import cast

import numpy as np

from tests.integration.kernel.ground import PAGE, Bytes, Ground, Unavailable, call, digest, libc, values

SIZE = (200 << 10) + 124
SYS_COPY_FILE_RANGE = 326
codecs.lookup("cp437")  # zipfile needs it, and a child that became nobody may not find it any more


def tofile(g: Ground) -> object:
    a = g.array(SIZE)
    g.gone(a)
    a.tofile(g.folder / "tofile")
    g.gone(a)
    a[5::3].tofile(g.folder / "strided")
    return (g.folder / "tofile").read_bytes(), (g.folder / "strided").read_bytes()


def fromfile(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    g.gone(a, b)
    a.tofile(g.folder / "fromfile")
    b[:] = np.fromfile(g.folder / "fromfile", "u1")
    return digest(b)


def save_and_load(g: Ground) -> object:
    whole, b = g.array(SIZE), g.room(SIZE - 4)
    a = whole[4:].reshape(4, -1).T
    g.gone(whole, b)
    np.save(g.folder / "a.npy", a)
    g.gone(whole)
    np.savez_compressed(g.folder / "a.npz", a=a)
    b[:] = np.load(g.folder / "a.npy").ravel()
    return (
        (g.folder / "a.npy").read_bytes(),
        digest(b),
        digest(np.load(g.folder / "a.npz")["a"]),
        zipfile.is_zipfile(g.folder / "a.npz"),
    )


def memmap_in_and_out(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    g.gone(a, b)
    mapped = np.memmap(g.folder / "map", "u1", "w+", shape=SIZE)
    mapped[:] = a
    mapped.flush()
    b[:] = mapped
    return digest(b), (g.folder / "map").read_bytes()


def mmap_write_and_read(g: Ground) -> object:
    a = g.array(SIZE)
    with mmap.mmap(-1, SIZE) as area:
        g.gone(a)
        written = area.write(memoryview(a))
        return written, area[:]


def _file(g: Ground) -> Path:
    path = g.folder / "source"
    path.write_bytes(bytes(range(256)) * (SIZE // 256 + 1))
    return path


def readinto_raw(g: Ground) -> object:
    b = g.room(SIZE)
    with _file(g).open("rb", buffering=0) as file:
        g.gone(b)
        first = file.readinto(b[:1000])
        g.gone(b)
        return first, file.readinto(b[1000:]), digest(b)


def readinto_buffered(g: Ground) -> object:
    b = g.room(SIZE)
    with _file(g).open("rb") as file:
        g.gone(b)
        small = file.readinto(b[:10])
        g.gone(b)
        return small, file.readinto(b[10:]), file.read(5), digest(b)


def readinto_past_the_end(g: Ground) -> object:
    b = g.array(2 * SIZE)
    with _file(g).open("rb", buffering=0) as file:
        g.gone(b)
        return file.readinto(b), file.readinto(b), digest(b)


def write_raw_and_buffered(g: Ground) -> object:
    a = g.array(SIZE)
    with (g.folder / "raw").open("wb", buffering=0) as file:
        g.gone(a)
        raw = file.write(a)
    with (g.folder / "buffered").open("wb") as file:
        g.gone(a)
        buffered = file.write(a[:100]), file.write(a[100:])
    return raw, buffered, (g.folder / "raw").read_bytes(), (g.folder / "buffered").read_bytes()


def vectors(g: Ground) -> object:
    a, b, outside = g.array(SIZE), g.array(SIZE, 2), cast("Bytes", np.zeros(70, "u1"))
    fd = os.open(g.folder / "vectors", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    g.gone(a, b)
    written = os.writev(fd, [a[:10], outside, a[10:9000], a[:0], a[9000:]])
    os.lseek(fd, 3, os.SEEK_SET)
    read = os.readv(fd, [b[50_000:50_001], outside, b[7:7], b[:50_000], b[60_000:]])
    result = written, read, os.readv(fd, [b]), os.fstat(fd).st_size, digest(b), outside.tobytes()
    os.close(fd)
    return result


def vectors_at_offsets(g: Ground) -> object:
    a, b = g.array(SIZE), g.array(SIZE, 2)
    fd = os.open(g.folder / "offsets", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    g.gone(a, b)
    written = os.pwritev(fd, [a[100:], a[:100]], 77), os.pwrite(fd, a[4000:9000], 5)
    g.gone(a, b)
    read = os.preadv(fd, [b[1:30_000], b[PAGE * 10 : PAGE * 40]], 50)
    result = written, read, os.lseek(fd, 0, os.SEEK_CUR), digest(b), os.pread(fd, 2 * SIZE, 0)
    os.close(fd)
    return result


def read_and_write_by_the_c_library(g: Ground) -> object:
    a, b = g.array(SIZE), g.array(SIZE, 2)
    fd = os.open(g.folder / "plain", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    g.gone(a, b)
    written = libc("write", fd, a.ctypes, SIZE)
    read = libc("pread", fd, b.ctypes, 20_000, 30), libc("read", fd, b.ctypes, 10)
    os.close(fd)
    return written, read, digest(b)


def names_and_structures(g: Ground) -> object:
    """A path in paged memory, and what stat, readlink and getcwd write there."""
    path, b = g.room(3 * PAGE), g.room(4 * PAGE)
    name = os.fsencode(_file(g)) + b"\0"
    at = PAGE - 3
    path[at : at + len(name)] = np.frombuffer(name, "u1")
    here = path.ctypes.data + at
    g.gone(path, b)
    opened = int(libc("open", here, os.O_RDONLY))
    size = os.fstat(opened).st_size
    g.gone(path, b)
    answer = libc("stat", here, b.ctypes.data + PAGE - 72)
    inside = int.from_bytes(b[PAGE - 72 + 48 : PAGE - 72 + 56].tobytes(), "little")
    os.close(opened)
    link = g.folder / "link"
    link.symlink_to("pointed at")
    target = g.room(2 * PAGE)
    g.gone(target)
    length = libc("readlink", os.fsencode(link), target.ctypes.data + PAGE - 4, 100)
    link.unlink()
    return opened > 0, size, answer, inside == size, length, digest(target)


def direct(g: Ground) -> object:
    """O_DIRECT needs alignment, and pins pages while the device works."""
    count = 64 * PAGE
    whole, target = g.room(count + PAGE), g.room(count + PAGE)
    a, b = _aligned(whole, count), _aligned(target, count)
    a[:] = values(count, 1)
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECT
    with tempfile.TemporaryDirectory(dir="/var/tmp") as on_disk:
        try:
            fd = os.open(Path(on_disk, "direct"), flags)
        except OSError as error:
            raise Unavailable(f"the file system of /var/tmp has no O_DIRECT: {error}") from None
        g.gone(whole, target)
        written = os.write(fd, a), os.pwritev(fd, [a[: 8 * PAGE], a[PAGE : 9 * PAGE]], 8 * PAGE)
        g.gone(whole, target)
        read = os.preadv(fd, [b[: 4 * PAGE], b[4 * PAGE :]], 0)
        os.close(fd)
    return written, read, digest(b)


def _aligned(array: Bytes, count: int) -> Bytes:
    skip = -array.ctypes.data % PAGE
    return array[skip : skip + count]


def sendfile_with_its_offset_in_paged_memory(g: Ground) -> object:
    place = g.room(2 * PAGE)
    place.view("i8")[PAGE // 8] = 12345
    source = os.open(_file(g), os.O_RDONLY)
    target = os.open(g.folder / "sent", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    g.gone(place)
    count = libc("sendfile", target, source, place.ctypes.data + PAGE, 50_000)
    g.gone(place)
    copied = call(SYS_COPY_FILE_RANGE, source, place.ctypes.data + PAGE, target, 0, 1000, 0)
    result = count, copied, int(place.view("i8")[PAGE // 8]), os.pread(target, SIZE, 0)
    os.close(source)
    os.close(target)
    return result


def file_objects_in_memory(g: Ground) -> object:
    a, b = g.array(SIZE), g.room(SIZE)
    held = io.BytesIO()
    g.gone(a, b)
    held.write(a)
    shutil.copyfileobj(io.BytesIO(held.getvalue()), held)
    held.seek(11)
    return held.readinto(b), digest(b), digest(np.frombuffer(held.getvalue(), "u1"))
