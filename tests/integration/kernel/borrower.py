# SPDX-License-Identifier: Apache-2.0
"""C code that makes a child by `vfork`: Python cannot, whose frames would return twice."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.integration.kernel.ground import PAGE, Bytes, Ground, Unavailable

__all__ = ["APART", "Order", "arguments", "spawn"]

APART = 300 * PAGE
"""Further than read-ahead goes, so that what is touched before the child is there brings nothing else in."""
SOURCE = r"""
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct order { const char *nowhere, *path, *input; char **argv, **envp; long *note; };

/* The child resets every signal, uses memory, opens its input, fails to execute one program and executes another. */
int run(struct order *o)
{
    pid_t pid = vfork();
    if (pid == 0) {
        sigset_t none;
        struct sigaction reset;
        memset(&reset, 0, sizeof reset);
        for (int number = 1; number < 65; number++)
            sigaction(number, &reset, 0);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, 0);
        int fd = open(o->input, O_RDONLY);
        if (fd < 0 || dup2(fd, 0) != 0)
            _exit(90);
        o->note[0] += getpid() != 0;
        execve(o->nowhere, o->argv, o->envp);
        if (errno != ENOENT)
            _exit(91);
        o->note[1] += 1;
        execve(o->path, o->argv, o->envp);
        _exit(92);
    }
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}
"""


@functools.cache
def _library() -> Any:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler")
    with tempfile.TemporaryDirectory(prefix="tmem-kernel-") as folder:
        made = Path(folder, "borrower.so")
        command = [compiler, "-shared", "-fPIC", "-O1", "-xc", "-", "-o", str(made)]
        subprocess.run(command, input=SOURCE.encode(), check=True)
        return ctypes.CDLL(str(made))


def arguments(b: Bytes, script: bytes) -> int:
    """Put a shell's path, arguments and the array of them on pages of their own; where the array is."""
    at = int(b.ctypes.data)
    for number, text in enumerate((b"/bin/sh\0", b"-c\0", script + b"\0")):
        b[number * APART : number * APART + len(text)] = np.frombuffer(text, "u1")
    pointers = np.array([at, at + APART, at + 2 * APART, 0], "u8").tobytes()
    b[3 * APART : 3 * APART + len(pointers)] = np.frombuffer(pointers, "u1")
    return at + 3 * APART


class Order:
    """What the child is to do, each part on pages of its own."""

    def __init__(self, g: Ground, code: int) -> None:
        self.room = g.room(14 * APART)
        self.used = 0
        nowhere, path = self._put(b"/nowhere\0"), self._put(b"/bin/sh\0")
        source = g.folder / "input"
        source.write_bytes(b"what is read\n")
        opened = self._put(bytes(source) + b"\0")
        script = b'read line && test "$line" = "what is read" && test $HERE = yes && exit %d\0' % code
        argv = self._words(path, self._put(b"-c\0"), self._put(script), 0)
        envp = self._words(self._put(b"HERE=yes\0"), self._put(b"OTHER=no\0"), 0)
        self.note = self._words(7, 0)
        self.at = self._words(nowhere, path, opened, argv, envp, self.note)

    def _put(self, content: bytes) -> int:
        """Put bytes across the end of a page; their address."""
        place = self.used * APART + PAGE - 3
        self.used += 1
        self.room[place : place + len(content)] = np.frombuffer(content, "u1")
        return int(self.room.ctypes.data) + place

    def _words(self, *words: int) -> int:
        return self._put(np.array(words, "u8").tobytes())

    def notes(self) -> bytes:
        """Return what the child has noted in memory."""
        place = self.note - self.room.ctypes.data
        return bytes(self.room[place : place + 16])


def spawn(order: Order) -> int:
    """Have the order carried out; the child's exit code."""
    return os.waitstatus_to_exitcode(_library().run(ctypes.c_void_p(order.at)))
