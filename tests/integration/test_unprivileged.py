# SPDX-License-Identifier: Apache-2.0
"""The same product as a plain user: no root, no capability, what an ordinary login has.

The child imports everything as root, because the interpreter may lie where nobody cannot read, then becomes nobody.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

NOBODY = 65534
PREPARE = f"""
import ctypes, json, os, socket, sys, tempfile, threading
import numpy as np
import tmem, tmem.cli.main, tmem.cli.doctor
from tmem import *  # while the files can be read
os.chdir("/tmp")
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
libc.prctl(4, 1, 0, 0, 0)   # PR_SET_DUMPABLE: /proc/self belongs to the user again, as after a login
"""
WORK = (
    PREPARE
    + """
try:
    memory = tmem.Memory("16M", faults=sys.argv[1])
    a = memory.empty(6 << 20, "i8")
except tmem.KernelUnsupported as error:
    print(json.dumps({"refused": str(error)}))
    sys.exit()
a[:] = np.arange(a.size)
half, step = a.size // 2, 1 << 17
with tempfile.TemporaryFile(buffering=0) as file:
    memory.evict(a)
    written = file.write(a[:step])
    memory.evict(a)
    file.seek(0)
    read = file.readinto(a[half : half + step])
def receive(sock, target, result):
    memory.evict(target)
    result.append(sock.recv_into(target))
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
result = []
target = a[half + step : half + step + 1024]
thread = threading.Thread(target=receive, args=(right, target, result))
thread.start()
sent = left.send(a[:1024])
thread.join()
want = np.arange(a.size)
want[half : half + step] = want[:step]
want[half + step : half + step + 1024] = want[:1024]
print(json.dumps({
    "uid": os.getuid(), "written": written, "read": read, "sent": sent, "received": result[0],
    "same": bool((a == want).all()), "broken": memory.check(),
}))
"""
)
DOCTOR = PREPARE + "sys.exit(tmem.cli.main.main(['doctor', '--json']))"


@pytest.fixture(autouse=True)
def _root(need_root: None) -> None:
    """Skip where this process cannot become nobody."""


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


@pytest.mark.parametrize("entry", ["auto", "signal", "thread"])
def test_a_plain_user_pages_and_system_calls_work(entry: str) -> None:
    ran = _run(WORK, entry)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    if "refused" in told:
        assert entry != "auto" or "userfaultfd" in told["refused"]
        pytest.skip(f"refused with its reason: {told['refused']}")
    size = 1 << 20
    assert told == {
        "uid": NOBODY, "written": size, "read": size, "sent": 8192, "received": 8192, "same": True, "broken": [],
    }  # fmt: skip


def test_doctor_as_a_plain_user_tells_what_is_used() -> None:
    ran = _run(DOCTOR)
    assert ran.stdout, ran.stderr
    document = json.loads(ran.stdout)
    assert ran.returncode == (0 if document["usable"] else 125)
    assert all(finding["ok"] or finding["remedy"] for finding in document["findings"])
