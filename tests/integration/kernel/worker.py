# SPDX-License-Identifier: Apache-2.0
"""One child interpreter: runs a module of cases on plain memory, then on paged memory, and tells where they differ.

Arguments: modules (or module.case), entry, user, thread. A line of JSON for each case
goes to standard output as the case ends.
Everything is imported before it becomes nobody, who may be unable to read where the interpreter lies.
"""

from __future__ import annotations

import errno
import json
import queue
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

import tmem
from tests.integration.kernel import (
    cases_async,
    cases_borrowed,
    cases_code,
    cases_events,
    cases_files,
    cases_heap,
    cases_large,
    cases_raw,
    cases_references,
    cases_sockets,
)
from tests.integration.kernel.ground import Ground, Paged, Unavailable, become_nobody, tell
from tmem import _core

MODULES = {
    module.__name__.rpartition("_")[2]: module
    for module in (
        cases_async,
        cases_borrowed,
        cases_code,
        cases_events,
        cases_files,
        cases_heap,
        cases_large,
        cases_raw,
        cases_references,
        cases_sockets,
    )
}
Case = Callable[[Ground], object]


def cases_of(wanted: str) -> list[Case]:
    """Return the public functions that a module defines, or the one that is named."""
    module, _, only = wanted.partition(".")
    found = [f for name, f in vars(MODULES[module]).items() if callable(f) and name[0] != "_"]
    mine = [f for f in found if f.__module__ == MODULES[module].__name__ and only in ("", f.__name__)]
    assert mine, f"no case {wanted}"
    return mine


def outcome(case: Case, ground: Ground) -> tuple[str, object]:
    """Run a case; how it ended, and with what."""
    try:
        return "value", case(ground)
    except Unavailable as lack:
        return "skipped", str(lack)
    except OSError as error:
        return "error", f"{errno.errorcode.get(error.errno or 0, '?')}\n{traceback.format_exc()}"
    except Exception:  # noqa: BLE001 - whatever it is, it is told
        return "error", traceback.format_exc()


def compare(case: Case, ground: Ground, plain: tuple[str, object]) -> tuple[str, str]:
    """Run a case on paged memory and judge it by what plain memory gave."""
    if plain[0] != "value":
        return plain[0], f"on plain memory: {plain[1]}"
    kind, value = outcome(case, ground)
    if case.__module__ == cases_async.__name__ and ground.guarded:
        refused = kind == "error" and str(value).startswith("ENOSYS")
        return ("refused", "") if refused else ("wrong", f"not refused with ENOSYS: {value}")
    if (kind, value) == plain:
        return "same", ""
    return ("wrong" if kind == "value" else kind), f"{value}\nplain memory gives {plain[1]!r:.2000}"


class Elsewhere:
    """Runs things in a thread that was there before any Memory."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._tasks.get()()
            self._done.put(None)

    def __call__(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)
        self._done.get()


def main(modules: str, entry: str, user: str, thread: str) -> None:
    if user == "nobody":
        become_nobody()
    run = Elsewhere() if thread == "other" else (lambda task: task())
    cases = [case for wanted in modules.split(",") for case in cases_of(wanted)]
    with tempfile.TemporaryDirectory(prefix="tmem-kernel-") as name:
        (plain_folder := Path(name, "plain")).mkdir()
        (paged_folder := Path(name, "paged")).mkdir()
        plain: list[tuple[str, object]] = []
        run(lambda: plain.extend(outcome(case, Ground(plain_folder)) for case in cases))
        guarded = cast("dict[str, bool]", _core.probe()["guarded"])[entry]
        ground = Paged(paged_folder, entry, guarded=guarded)

        def judge() -> None:
            for case, wanted in zip(cases, plain, strict=True):
                sys.stderr.write(f"begins: {case.__name__}\n")  # names the case that kills the child
                verdict, detail = compare(case, ground, wanted)
                name = f"{case.__module__.rpartition('_')[2]}.{case.__name__}"
                tell(json.dumps({"case": name, "verdict": verdict, "detail": detail}))

        run(judge)
        broken = ground.memory.check()
        tell(json.dumps({"case": "check", "verdict": "wrong" if broken else "same", "detail": str(broken)}))
        tell(json.dumps({"guarded": guarded}))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except tmem.KernelUnsupported as refusal:
        tell(json.dumps({"refusal": str(refusal)}))
