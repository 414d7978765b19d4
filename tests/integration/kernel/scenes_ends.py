# SPDX-License-Identifier: Apache-2.0
"""Ends of the interpreter while threads are in the middle of faults.

What the parent sees: the exit code, and no word of ours.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading

import numpy as np

from tests.integration.kernel.ground import PAGE, tell
from tests.integration.kernel.stage import Stage


def _hammer(s: Stage, count: int = 3) -> None:
    """Have daemon threads fault without end."""
    s.begin()
    ready = threading.Barrier(count + 1)

    def work(number: int) -> None:
        part = s.ballast[number * PAGE * 700 :: PAGE]
        ready.wait()
        while True:
            part += np.uint8(1)
            np.add(s.a, 0, out=s.a)

    for number in range(count):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    ready.wait()
    s.churn(1)


def end_of_the_script(s: Stage) -> None:
    _hammer(s)


def sys_exit(s: Stage) -> None:
    _hammer(s)
    sys.exit(17)


def os_exit(s: Stage) -> None:
    _hammer(s)
    sys.stdout.flush()
    os._exit(18)


def exception(s: Stage) -> None:
    _hammer(s)
    raise SystemExit("the last words")


def arrays_used_at_exit(s: Stage) -> None:
    """Functions that run late still find the values."""
    _hammer(s)
    atexit.register(lambda: tell("right" if bool((s.a == s.want).all()) else "wrong"))
    sys.exit(19)


def killed_by_a_signal(s: Stage) -> None:
    _hammer(s)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


def a_thread_exits_the_process(s: Stage) -> None:
    _hammer(s)
    threading.Thread(target=lambda: os._exit(20)).start()
    while True:
        s.churn(1)


def forked_child_ends_while_threads_page(s: Stage) -> None:
    _hammer(s)
    pid = os.fork()
    if pid == 0:
        _ = s.a.sum()
        sys.exit(21)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.exit(22 if code == 21 else 1)
