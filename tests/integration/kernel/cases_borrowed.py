# SPDX-License-Identifier: Apache-2.0
"""A child that borrows this memory until it executes another program, as those of vfork and posix_spawn do."""

from __future__ import annotations

import ctypes
import os
import struct

import numpy as np

from tests.integration.kernel.ground import PAGE, Ground, libc

APART = 300 * PAGE
"""Further than read-ahead goes, so that what the C library touches before the child is there brings nothing else in."""


def program_and_arguments(g: Ground) -> object:
    """Path, arguments and the array of them are read by the child's execve."""
    b = g.room(4 * APART)
    at = b.ctypes.data
    texts = (b"/bin/sh\0", b"-c\0", b"exit 33\0")
    for number, text in enumerate(texts):
        b[number * APART : number * APART + len(text)] = np.frombuffer(text, "u1")
    pointers = struct.pack("4Q", at, at + APART, at + 2 * APART, 0)
    b[3 * APART : 3 * APART + len(pointers)] = np.frombuffer(pointers, "u1")
    child = ctypes.c_int()
    g.gone(b)
    answer = libc("posix_spawn", ctypes.addressof(child), at, 0, 0, at + 3 * APART, 0)
    return answer, os.waitstatus_to_exitcode(os.waitpid(child.value, 0)[1]) if answer == 0 else None
