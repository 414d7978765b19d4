# SPDX-License-Identifier: Apache-2.0
"""The process of a Python backend: `python -m tmem.backendserve DESCRIPTOR`, the backend pickled on standard input.

Owns: the other end of the channel. Started by backendprocess, never by people. One question at a time, in order.
It ends when its guest does: the main thread sees the end of the channel, and a second one sees to it that a verb that
hangs does not keep the process. Ctrl-C is the guest's; it has to be the first to know.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import spawn

from tmem import backendprocess
from tmem.failures import report
from tmem.ops import PAGE_SIZE, FrontswapOps
from tmem.outcome import Reason, code_of

__all__ = ["main", "serve"]

_QUESTION = struct.Struct("=IIQQ")  # verb, area, page, number
_ANSWER = struct.Struct("=QII")  # number, code, unused
_INIT, _STORE, _LOAD, _INVALIDATE_PAGE, _INVALIDATE_AREA = range(5)
_MISS, _FAILED = 254, 255
_GRACE_SECONDS = 1.0


def serve(channel: socket.socket, ops: FrontswapOps) -> None:
    """Answer questions until the other end is closed."""
    while question := channel.recv(_QUESTION.size + PAGE_SIZE):
        verb, area, page, number = _QUESTION.unpack_from(question)
        if verb == _STORE:
            data = memoryview(question)[_QUESTION.size :]
            code = _store(ops, area, page, data)
            with suppress(BufferError):  # of an array over it that the backend keeps: these bytes are nobody else's
                data.release()
            channel.send(_ANSWER.pack(number, code, 0))
        elif verb == _LOAD:
            code, found = _load(ops, area, page)
            channel.send(_ANSWER.pack(number, code, 0) + found)
        else:
            _tell(ops, verb, area, page)


def _store(ops: FrontswapOps, area: int, page: int, data: memoryview) -> int:
    try:
        return code_of(ops.store(area, page, data))
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is a refusal
        report("store", ops, error)
        return int(Reason.BACKEND_FAILED)


def _load(ops: FrontswapOps, area: int, page: int) -> tuple[int, bytes]:
    try:
        found = ops.load(area, page)
        if found is None:
            return _MISS, b""
        if len(whole := bytes(found)) == PAGE_SIZE:
            return 0, whole
        raise ValueError(f"a backend gave {len(whole)} bytes for a page of {PAGE_SIZE}")  # noqa: TRY301 - told as all others
    except Exception as error:  # noqa: BLE001 - the other side decides what a lost page means
        report("load", ops, error)
        return _FAILED, b""


def _tell(ops: FrontswapOps, verb: int, area: int, page: int) -> None:
    try:
        if verb == _INIT:
            ops.init(area, page)
        elif verb == _INVALIDATE_PAGE:
            ops.invalidate_page(area, page)
        elif verb == _INVALIDATE_AREA:
            ops.invalidate_area(area)
    except Exception as error:  # noqa: BLE001 - nobody waits for an answer
        report(("init", "", "", "invalidate_page", "invalidate_area")[verb], ops, error)


def _end_with_guest(descriptor: int) -> None:
    """Wait for the guest's end, and end this process if it does not do so by itself."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    poll.poll()
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def main() -> None:
    """Say whether the backend could be made here, then serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    backendprocess.SERVING = True
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        threading.Thread(target=_end_with_guest, args=(channel.fileno(),), daemon=True).start()
        source = sys.stdin.buffer
        try:
            spawn.prepare(pickle.load(source))  # noqa: S301 - from the guest that started this process, on a pipe of ours
            ops = pickle.load(source)  # noqa: S301 - as above
        except Exception as error:  # noqa: BLE001 - told to the guest, which raises it
            channel.send(f"{type(error).__name__}: {error}".encode()[:PAGE_SIZE])
            return
        channel.send(backendprocess.READY)
        serve(channel, ops)


if __name__ == "__main__":
    main()
