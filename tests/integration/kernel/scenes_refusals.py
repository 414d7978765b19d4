# SPDX-License-Identifier: Apache-2.0
"""Machines that lack what paging needs, made by a seccomp filter, and memory that is used without system calls."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

import tmem
from tests.integration.kernel.ground import RAM, call, libc, tell
from tests.integration.kernel.stage import Stage

SYS_PRCTL, SYS_USERFAULTFD, SYS_URING_SETUP, SYS_IO_SETUP, SYS_IO_DESTROY = 157, 323, 425, 206, 207
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_SYSCALL_USER_DISPATCH = 38, 22, 59
FILTER_MODE, ALLOW, REFUSE = 2, 0x7FFF_0000, 0x0005_0000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER_AT, FIRST_ARGUMENT_AT = 0, 16


def _filter(number: int, argument: int | None, code: int) -> None:
    """Have the kernel refuse one system call (with one first argument) in this process, as containers do."""
    program = [(LOAD, 0, 0, NUMBER_AT), (JUMP_IF_EQUAL, 0, 3 if argument is not None else 1, number)]
    if argument is not None:
        program += [(LOAD, 0, 0, FIRST_ARGUMENT_AT), (JUMP_IF_EQUAL, 0, 1, argument)]
    program += [(RETURN, 0, 0, REFUSE | code), (RETURN, 0, 0, ALLOW)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(packed)))
    assert libc("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc("prctl", PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(header), 0, 0) == 0


def _made(faults: str) -> str:
    """Make a Memory; the entry that it chose, or why it was refused."""
    try:
        return tmem.Memory(RAM, faults=faults).faults
    except tmem.KernelUnsupported as refusal:
        return f"refused: {refusal}"


def no_userfaultfd(s: Stage) -> None:
    _filter(SYS_USERFAULTFD, None, errno.EPERM)
    for faults in (s.entry, "auto"):
        told = _made(faults)
        assert told.startswith("refused: userfaultfd is not permitted"), told
        assert "--device /dev/userfaultfd" in told


def no_dispatch(s: Stage) -> None:
    _filter(SYS_PRCTL, PR_SET_SYSCALL_USER_DISPATCH, errno.EINVAL)
    told = {faults: _made(faults) for faults in ("signal", "thread", "auto")}
    assert told["signal"].startswith("refused: system calls on paged memory could not be guarded"), told
    assert 'faults="thread"' in told["signal"]
    served = os.geteuid() == 0
    assert (told["thread"] == "thread") == served, told
    assert (told["auto"] == "thread") == served, told
    if served:
        s.entry = "auto"
        s.begin()
        s.churn()
        assert s.right()


def _while_open(s: Stage, words: str, entry: str) -> None:
    memory = tmem.Memory(RAM, faults=entry)
    try:
        memory.empty(4 * RAM, "u1")
    except tmem.KernelUnsupported as refusal:
        told = str(refusal)
    else:
        told = "not refused"
    served = s.entry == "thread" and os.geteuid() == 0
    assert told == "not refused" if served else words in told, told
    assert served or "/dev/userfaultfd" in told


def io_uring_is_open(s: Stage) -> None:
    params = ctypes.create_string_buffer(120)
    try:
        ring = call(SYS_URING_SETUP, 4, ctypes.addressof(params))
    except OSError as error:
        tell(f"lacking: io_uring ({error})")
        return
    _while_open(s, "an io_uring is open (descriptor", s.entry)
    os.close(ring)
    s.begin()
    s.churn()
    assert s.right()


def linux_aio_is_open(s: Stage) -> None:
    context = ctypes.c_ulong(0)
    try:
        call(SYS_IO_SETUP, 4, ctypes.addressof(context))
    except OSError as error:
        tell(f"lacking: Linux AIO ({error})")
        return
    _while_open(s, "a Linux AIO context (io_setup) is open", s.entry)
    call(SYS_IO_DESTROY, context.value)
    s.begin()
    s.churn()
    assert s.right()
