# SPDX-License-Identifier: Apache-2.0
"""A child that borrows this memory until it executes another program, as those of vfork and posix_spawn do."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import threading

import numpy as np

from tests.integration.kernel import borrower
from tests.integration.kernel.borrower import APART, arguments
from tests.integration.kernel.ground import Ground, libc

SETSIGDEF, SETSIGMASK = 4, 8


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def program_andarguments(g: Ground) -> object:
    """Path, arguments and the array of them are read by the child's execve."""
    b = g.room(4 * APART)
    argv = arguments(b, b"exit 33")
    child = ctypes.c_int()
    g.gone(b)
    answer = libc("posix_spawn", ctypes.addressof(child), b.ctypes.data, 0, 0, argv, 0)
    ended = _ended(child.value) if answer == 0 else None
    g.gone(b)
    return answer, ended


def actions_and_attributes(g: Ground) -> object:
    """The child reads the structures of both itself; it resets every signal, ours too."""
    b = g.room(8 * APART)
    at = int(b.ctypes.data)
    argv = arguments(b, b'read line; test "$line" = hello && exit 34')
    actions, attributes, signals = at + 4 * APART - 8, at + 5 * APART - 8, at + 6 * APART
    path = g.folder / "said"
    path.write_bytes(b"hello\n")
    b[6 * APART : 6 * APART + 128] = 0xFF
    libc("posix_spawn_file_actions_init", actions)
    libc("posix_spawn_file_actions_addopen", actions, 9, ctypes.c_char_p(bytes(path)), os.O_RDONLY, 0)
    libc("posix_spawn_file_actions_adddup2", actions, 9, 0)
    libc("posix_spawn_file_actions_addclosefrom_np", actions, 3)
    libc("posix_spawnattr_init", attributes)
    libc("posix_spawnattr_setflags", attributes, SETSIGDEF | SETSIGMASK)
    libc("posix_spawnattr_setsigdefault", attributes, signals)
    child = ctypes.c_int()
    told: list[object] = []
    for _ in range(5):
        g.gone(b)
        answer = libc("posix_spawn", ctypes.addressof(child), at, actions, attributes, argv, 0)
        told.append((answer, _ended(child.value) if answer == 0 else None))
    g.gone(b)
    libc("posix_spawn_file_actions_destroy", actions)
    return told


def program_that_is_not_there(g: Ground) -> object:
    """A failed execve comes back, and so does what it took."""
    b = g.room(4 * APART)
    argv = arguments(b, b"exit 35")
    b[:9] = np.frombuffer(b"/nowhere\0", "u1")
    child = ctypes.c_int()
    told = []
    for _ in range(20):
        g.gone(b)
        told.append(libc("posix_spawn", ctypes.addressof(child), b.ctypes.data, 0, 0, argv, 0))
    g.gone(b)
    assert told == [errno.ENOENT] * 20
    return told


def child_of_vfork(g: Ground) -> object:
    """Its instructions and system calls find what is out; it resets its signals; one execve fails, one does not."""
    order = borrower.Order(g, 36)
    told: list[object] = []
    for _ in range(10):
        g.gone(order.room)
        told.append(borrower.spawn(order))
        told.append(order.notes())
    g.gone(order.room)
    return told


def signal_that_waits_for_the_parent(g: Ground) -> object:
    """A signal that is pending when the child is born stays the parent's, once."""
    order = borrower.Order(g, 37)
    told: list[object] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    for _ in range(5):
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        g.gone(order.room)
        told.append(borrower.spawn(order))
        came = [signal.sigtimedwait({signal.SIGUSR1}, 0) for _ in range(2)]
        told.append([one and one.si_signo for one in came])
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return told


def children_of_subprocess(g: Ground) -> object:
    """Python's own children, with input from what is out."""
    a = g.array(100_001)
    told = []
    for _ in range(10):
        g.gone(a)
        told.append(
            subprocess.run(["/usr/bin/env", "-i", "cksum"], input=a.data, capture_output=True, check=True).stdout
        )
    g.gone(a)
    return told
