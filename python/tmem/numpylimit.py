# SPDX-License-Identifier: Apache-2.0
"""limit: NumPy's own allocations under one RAM budget, without a change to the code that makes them.

Owns: which limit is in force in a context, and for the whole process. Called by users. Calls memory, carry and the
native module, whose allocator NumPy is handed (NEP 49, https://numpy.org/neps/nep-0049.html).
Law: an array stays valid for as long as anything refers to it, whatever became of the limit it was made under.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, NamedTuple, NoReturn, ParamSpec, Self, TypeVar

from tmem import _core, carry
from tmem.counters import Stats
from tmem.errors import SizeError, TmemError, TmemWarning
from tmem.kinds import Size, Swap
from tmem.memory import Memory, numpy_allocator, raise_notices_of
from tmem.units import format_size, parse_size

__all__ = ["Limit", "in_force", "install", "limit", "uninstall"]

Small = Literal["plain", "packed"]
"""Where arrays below the threshold go: plain memory, or paged pages that they share."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LARGEST_THRESHOLD = 1 << 40
_NUMBERS = itertools.count(1)
_ELSEWHERE = (
    "a limit ended in another context than it began in, where it stays in force: close generators that have a limit "
    "inside where they were started"
)


class _Entered(NamedTuple):
    limit: Limit
    before: object  # the handler that NumPy had


_entered: ContextVar[tuple[_Entered, ...]] = ContextVar("tmem-limits", default=())
_installed: list[_Entered] = []  # none or one
_installer: ContextVar[int] = ContextVar("tmem-installer", default=0)


class Limit:
    """A RAM budget for the arrays that NumPy makes while it is in force; `tmem.limit(...)` makes one.

    As a context manager it is in force inside the `with` block: in this thread or task, in threads started there, and
    in tasks handed to thread pools there. As a decorator it is in force during each call; all calls share the budget.
    It may be entered again, also inside itself. Arrays outlive it: they stay valid and count against its budget until
    their last reference goes. Of arrays that ended, up to an eighth of the budget is kept for the next ones while
    memory is plain, until close().

    `ram`, `swap`, `faults`, `name` and `host` are those of `tmem.Memory`. Arrays of `threshold` bytes or more are
    paged. With `small="plain"` smaller ones are plain memory; with `small="packed"` they share paged pages with others
    of their size.

    Raises SizeError for sizes that cannot be meant, SwapError, KernelUnsupported. Where an array does not fit, NumPy
    raises MemoryError, and a note added to it says why.
    """

    def __init__(  # noqa: PLR0913 - each says another thing about the memory
        self,
        ram: Size,
        *,
        threshold: Size = "64K",
        small: Small = "plain",
        swap: Swap = "auto",
        faults: str = "auto",
        name: str | None = None,
        host: str | os.PathLike[str] | None = None,
    ) -> None:
        if small not in ("plain", "packed"):
            raise ValueError(f"small must be 'plain' or 'packed', not {small!r}")
        self._threshold = _threshold(threshold)
        self._memory = Memory(ram, swap=swap, faults=faults, name=name or f"limit-{next(_NUMBERS)}", host=host)
        self._allocator = numpy_allocator(self._memory, self._threshold, small)
        carry.install(_carrier)

    # In force

    def __enter__(self) -> Self:
        stack = _entered.get()
        entered = (*stack, _Entered(self, _core.get_handler()))
        try:
            _core.set_handler(self._allocator.handler, _entered, entered)
        except BaseException:  # Ctrl-C, say, just after it: then nobody would call __exit__
            if _entered.get() is entered:
                _core.set_handler(entered[-1].before, _entered, stack)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack = _entered.get()
        try:
            self._leave(stack)
        except BaseException:  # Ctrl-C, say: what has begun to end must end
            if _entered.get() is stack:
                self._leave(stack)
            raise
        refusal = self._allocator.refusal()
        if refusal and isinstance(error, MemoryError) and hasattr(error, "dtype"):  # NumPy's own, for an array
            error.add_note(f"tmem.limit: {refusal}")
        if error is None:
            raise_notices_of(self._memory)

    def _leave(self, stack: tuple[_Entered, ...]) -> None:
        """End what this limit began last. Out of order, as generators may do it, the others stay in force."""
        at = next((n for n in reversed(range(len(stack))) if stack[n].limit is self), None)
        if at is None:
            warnings.warn(_ELSEWHERE, TmemWarning, stacklevel=3)
            return
        before = stack[at].before
        if at == len(stack) - 1:
            _core.set_handler(before, _entered, stack[:-1])
            return
        # Whoever began after this one goes back to what was there before this one.
        after = stack[at + 1]._replace(before=before)
        _core.set_handler(_core.get_handler(), _entered, (*stack[:at], after, *stack[at + 2 :]))

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Return `function` with this limit in force during each call; a coroutine function stays one."""
        if inspect.isclass(function):
            raise TypeError("a class is not run: decorate its methods, or use `with tmem.limit(...)`")
        body = function if inspect.isroutine(function) else getattr(type(function), "__call__", function)  # noqa: B004
        if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
            raise TypeError("the body of a generator runs after the call: use `with tmem.limit(...)` inside it instead")
        if inspect.iscoroutinefunction(body):

            @functools.wraps(function)
            async def run_coroutine(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                return await self._inside(function(*args, **kwargs))  # type: ignore[arg-type]

            return run_coroutine  # type: ignore[return-value]

        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self:
                result = function(*args, **kwargs)
            # A function that only makes a coroutine has done nothing yet.
            return self._inside(result) if inspect.iscoroutine(result) else result  # type: ignore[return-value]

        return run

    async def _inside(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with self:
            return await coroutine

    # Looking

    @property
    def memory(self) -> Memory:
        """The Memory behind it: the budget, its counters, and arrays made on purpose."""
        return self._memory

    @property
    def threshold(self) -> int:
        """The size in bytes from which on arrays are paged."""
        return self._threshold

    def stats(self) -> Stats:
        """Return the counters of the Memory behind it."""
        return self._memory.stats()

    def blocks(self) -> dict[str, int]:
        """Return how many blocks NumPy was given: `paged`, `plain` (below the threshold), and the `refused`."""
        return self._allocator.counts()

    def evict_every(self, blocks: int) -> None:
        """From now on, send every page out each time NumPy was given so many paged blocks; 0 ends it.

        For tests: code that works under this works under any pressure. Very slow with small numbers.
        """
        if blocks < 0:
            raise ValueError(f"blocks must be 0 or more, not {blocks}")
        self._allocator.evict_every(blocks)

    def close(self) -> None:
        """Make no more arrays under it. Those alive stay valid, and a ResourceWarning counts them."""
        self._memory.close()

    def __repr__(self) -> str:
        ram, threshold = format_size(self._memory.ram), format_size(self._threshold)
        return f"<tmem.limit {self._memory.name!r} ram={ram} threshold={threshold}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a limit belongs to its process and cannot be pickled: make one in the other process")


limit = Limit


def install(  # noqa: PLR0913 - as above
    ram: Size,
    *,
    threshold: Size = "64K",
    small: Small = "plain",
    swap: Swap = "auto",
    faults: str = "auto",
    name: str | None = None,
    host: str | os.PathLike[str] | None = None,
) -> Limit:
    """Put a limit in force for the whole process, and return it; the arguments are those of `limit`.

    It reaches this thread, the threads started from now on and the tasks submitted to thread pools from now on. Threads
    that run already are not reached, so call it early, from the main thread. TmemError where one is installed already.
    """
    if _installed:
        raise TmemError(f"{_installed[0].limit!r} is installed already: tmem.uninstall() it first")
    if _entered.get():
        raise TmemError("a limit is in force in this context: install before, or after it has ended")
    made = Limit(ram, threshold=threshold, small=small, swap=swap, faults=faults, name=name, host=host)
    _installed.append(_Entered(made, _core.get_handler()))
    _core.set_handler(made._allocator.handler, _installer, threading.get_ident())  # noqa: SLF001 - the two are one thing
    return made


def uninstall() -> None:
    """End the installed limit for this thread and for threads that start from now on. TmemError where there is none."""
    if not _installed:
        raise TmemError("no limit is installed")
    if _entered.get():
        raise TmemError("a limit is in force in this context: uninstall after it has ended")
    if _installer.get() != threading.get_ident():
        raise TmemError("the limit was installed in another thread or context: uninstall it there")
    _core.set_handler(_installed.pop().before, _installer, 0)


def in_force() -> Limit | None:
    """Return the limit under which NumPy allocates in this context, if there is one."""
    stack = _entered.get()
    if stack:
        return stack[-1].limit
    return _installed[0].limit if _installed else None


def _carrier() -> Callable[[], AbstractContextManager[object]] | None:
    """Return what another thread can enter to have the limit in force here."""
    found = in_force()
    return None if found is None else lambda: found


def _threshold(size: Size) -> int:
    """Return a threshold in bytes. 0 is allowed: then everything is paged."""
    if size in {0, "0"}:
        return 0
    count = parse_size(size, what="threshold")
    if count > _LARGEST_THRESHOLD:
        raise SizeError(f"a threshold of {format_size(count)} would leave every array as it is: ask for less")
    return count
