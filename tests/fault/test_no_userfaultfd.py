# SPDX-License-Identifier: Apache-2.0
"""A machine that refuses userfaultfd, made with a seccomp filter: refused with the remedy, and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

# Classic BPF over `struct seccomp_data`. The system call, and the request of /dev/userfaultfd that gives the same, are
# answered with an error; everything else is let through.
FILTER = """
import ctypes, errno, struct
import tmem.cli.main

def forbid(name, device=True):
    load, equal, answer = 0x20, 0x15, 0x06
    error = 0x00050000 | getattr(errno, name)
    allow = 0x7FFF0000
    ioctl = 16 if device else 0xFFFF
    program = [
        (load, 0, 0, 0), (equal, 4, 0, 323), (equal, 0, 2, ioctl),
        (load, 0, 0, 24), (equal, 1, 0, 0xAA00), (answer, 0, 0, allow), (answer, 0, 0, error),
    ]
    code = b"".join(struct.pack("<HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, head, 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""
CONSTRUCT = """
forbid(directory)
try:
    tmem.Memory("16M", swap=None, faults=entry)
    say(refused=False)
except tmem.KernelUnsupported as error:
    say(refused=True, text=str(error), left=own_files("tmem-stats"))
"""
ARM = """
memory = tmem.Memory("16M", swap=None, faults=entry)
array = memory.full(1 << 20, 7, "i8")
forbid(directory)
try:
    memory.empty(4 << 20, "i8")
    say(refused=False)
except tmem.KernelUnsupported as error:
    say(refused=True, text=str(error), same=bool((array == 7).all()), broken=memory.check(), more=memory.zeros(9).sum())
"""
DEVICE = """
forbid("EPERM", device=False)
memory = tmem.Memory("16M", swap=directory, faults=entry)
array = memory.empty(3 << 20, "i8")
array[:] = np.arange(array.size)
memory.evict(array)
say(same=bool((array == np.arange(array.size)).all()))
"""
DOCTOR = """
forbid(directory)
sys.exit(tmem.cli.main.main(["doctor", "--json"]))
"""
RUN = """
forbid(directory)
sys.exit(tmem.cli.main.main(["run", "--ram", "16M", "echo", "started"]))
"""


def _told(child: Any, code: str, entry: str, error: str = "EPERM") -> Any:
    ran = child(FILTER + code, entry, directory=error)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_memory_is_refused_with_the_remedy(child: Any, entry: str, error: str) -> None:
    told = _told(child, CONSTRUCT, entry, error)
    assert (told["refused"], told["left"]) == (True, [])
    assert error in told["text"]
    assert "--device /dev/userfaultfd" in told["text"]


def test_refusal_comes_with_the_allocation_that_passes_the_budget_and_loses_nothing(child: Any, entry: str) -> None:
    told = _told(child, ARM, entry)
    assert (told["refused"], told["same"], told["broken"], told["more"]) == (True, True, [], 0.0)
    assert "userfaultfd" in told["text"]
    assert "/dev/userfaultfd" in told["text"]


def test_device_serves_where_only_the_system_call_is_refused(child: Any, entry: str) -> None:
    ran = child(FILTER + DEVICE, entry)
    if "not permitted" in ran.stderr:
        pytest.skip("this user may not open /dev/userfaultfd")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"same": True}


def test_doctor_says_the_same(child: Any) -> None:
    ran = child(FILTER + DOCTOR, "auto", directory="EPERM")
    assert ran.returncode == 125, ran.stderr
    document = json.loads(ran.stdout)
    assert (document["usable"], document["entry"]) == (False, "")
    finding = next(item for item in document["findings"] if item["name"] == "userfaultfd")
    assert (finding["ok"], finding["needed"]) == (False, True)
    assert "userfaultfd" in finding["remedy"]


def test_a_program_is_refused_with_the_remedy_before_it_starts(child: Any) -> None:
    ran = child(FILTER + RUN, "thread", directory="EPERM")
    assert (ran.returncode, ran.stdout) == (125, "")
    assert ran.stderr.startswith("tmem run: ")
    assert "userfaultfd is refused -> " in ran.stderr
    assert "/dev/userfaultfd" in ran.stderr
