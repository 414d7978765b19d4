# SPDX-License-Identifier: Apache-2.0
"""Carries what is in force in one thread into the threads it starts and the tasks it hands to thread pools.

Owns: the places where Python starts a thread or takes a task, wrapped once and for all by `install`. Called by
numpylimit. NumPy keeps its data allocator in a context variable, and a new thread begins with an empty context.
Law: a pool's worker is nobody's. Tasks bring what is in force where they are submitted, and leave nothing behind.

What this cannot see: threads that run already, those made below `threading` (`_thread.start_new_thread`, C code), and
other processes, unless they are forked from a thread where something is in force.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import Context
from multiprocessing.pool import ThreadPool
from typing import Any, TypeAlias

__all__ = ["InForce", "install"]

InForce: TypeAlias = Callable[[], Callable[[], AbstractContextManager[object]] | None]
"""Returns what makes, in another thread, a context like the one here; None where nothing is in force."""

# `apply` is `apply_async` and a wait, so it needs no wrapper of its own.
_TAKING_TASKS = ("apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered")
_lock = threading.Lock()
_asked: list[InForce] = []


def install(in_force: InForce) -> None:
    """From now on ask `in_force` whenever a thread is started or a task submitted. Only the first call counts."""
    with _lock:
        if _asked:
            return
        _asked.append(in_force)
        # Left in place for good: whoever wraps these after us holds on to ours. Where nothing is in force they pass on.
        threading.Thread.start = _starting(threading.Thread.start)  # type: ignore[method-assign,assignment]
        ThreadPoolExecutor.submit = _submitting(ThreadPoolExecutor.submit)  # type: ignore[method-assign]
        ThreadPool.__init__ = _neutrally(ThreadPool.__init__)  # type: ignore[method-assign]
        for name in _TAKING_TASKS:
            setattr(ThreadPool, name, _submitting(getattr(ThreadPool, name)))


def _carried(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return `function` with what is in force here around it; None where nothing is."""
    make = _asked[0]()
    if make is None:
        return None

    @functools.wraps(function, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def run(*args: Any, **kwargs: Any) -> Any:
        with make():
            return function(*args, **kwargs)

    return run


def _starting(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @functools.wraps(start)
    def wrapped(self: threading.Thread) -> None:
        body = _carried(self.run)
        if body is None or self.ident is not None:  # a thread that was started already is for `start` to refuse
            start(self)
            return

        own = vars(self).get("run")

        def restore() -> None:  # the thread must not keep itself alive through us
            vars(self).pop("run", None)
            if own is not None:
                vars(self)["run"] = own

        def run() -> None:
            restore()
            body()

        try:
            self.run = run  # type: ignore[method-assign]
        except (AttributeError, TypeError):
            # Its class lets nobody change what it runs: it starts as it always did, and what it makes escapes.
            start(self)
            return
        try:
            start(self)
        except BaseException:
            restore()
            raise

    return wrapped


def _submitting(submit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(submit)
    def wrapped(self: object, *args: Any, **kwargs: Any) -> Any:
        task = args[0] if args else kwargs.get("func")
        carried = _carried(task) if callable(task) else None
        if carried is None:
            return submit(self, *args, **kwargs)
        if args:
            args = (carried, *args[1:])
        else:
            kwargs["func"] = carried
        return Context().run(submit, self, *args, **kwargs)  # a worker that starts for this task outlives it

    return wrapped


def _neutrally(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        if _asked[0]() is None:
            method(*args, **kwargs)
        else:
            Context().run(method, *args, **kwargs)

    return wrapped
