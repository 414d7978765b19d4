# SPDX-License-Identifier: Apache-2.0
"""Saving pools to a file and restoring them: the native module makes and reads the bytes, this drives it.

Owns: the order of the steps. Called by pool. Calls newfile and the native module, a piece at a time, so that Ctrl-C
gets through.
Law: what is saved can only shrink; a restore makes all pools of a file, or none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Protocol

from tmem import _core
from tmem.errors import SaveError
from tmem.newfile import NewFile

__all__ = ["MakePool", "restore", "save"]

Path = str | os.PathLike[str]


class MakePool(Protocol):
    """Makes an empty pool as a file describes it."""

    def __call__(self, saved_name: str, saved_guest: str, /, *, pack: bool, raw: bool) -> _core.Pool:
        """Return the pool's native part."""


def save(path: Path, pools: Iterable[tuple[_core.Pool, str, str]]) -> int:
    """Save pools, each with its name and its guest's; return how many pages there are."""
    saver = _core.Saver(list(pools))
    with NewFile(path) as file:
        try:
            saver.begin()
            while (piece := saver.piece()) is not None:
                file.write(piece)
            # Most of it goes to the disk now: what is flushed meanwhile is still left out.
            file.sync()
            end, pages = saver.finish()
            file.write(end)
            file.publish()
        finally:
            saver.release()
    return pages


def restore(path: Path, host: _core.Host, make: MakePool, *, one: bool) -> int:
    """Restore the pools of a file, or the one that it must have; return how many pages there are."""
    restorer = _core.Restorer(host, os.fspath(path))
    if one and restorer.pools != 1:
        raise ValueError(f"{os.fspath(path)} has {restorer.pools} pools: use tmem.restore_pools")
    made: list[_core.Pool] = []
    names: set[str] = set()
    try:
        while not isinstance(step := restorer.step(), int):
            if step is None:
                continue
            _refuse_name(path, step["name"], names)
            made.append(make(step["name"], step["guest"], pack=step["pack"], raw=step["raw"]))
            restorer.give(made[-1])
    except BaseException:
        for pool in made:
            pool.destroy()
        raise
    return step


def _refuse_name(path: Path, name: str, names: set[str]) -> None:
    if name in names or not name.isprintable():
        text = f"it has a pool of the name {name!r}, or two: save the pools again"
        raise SaveError(errno.EBADMSG, text, os.fspath(path))
    names.add(name)
