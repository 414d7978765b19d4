# SPDX-License-Identifier: Apache-2.0
"""Changes to the machine that are changed back: one list of what to undo, kept in a file for the worst case.

Owns: the journal, `/run/tmem-bench-PID.json`. Called by kernel. Each step is written there before it is done, so that
the next start finds what a run that was killed (`kill -9`, a crash) has left, and undoes it.
Law: undoing goes on after a step that fails, and ends in one error that names all that is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tmem.errors import TmemError

__all__ = ["JOURNALS", "Changes", "leftovers", "recover", "uninterrupted"]

JOURNALS = Path("/run")
ZRAM_CONTROL = Path("/sys/class/zram-control")
_PREFIX = "tmem-bench-"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 10.0

Step = tuple[str, ...]


class Changes:
    """What was changed so far, newest last. `undo()` changes it back to a mark, or all of it."""

    def __init__(self, directory: Path = JOURNALS) -> None:
        self._journal = directory / f"{_PREFIX}{os.getpid()}.json"
        self._steps: list[Step] = []

    def mark(self) -> int:
        """Return a place to come back to."""
        return len(self._steps)

    def will(self, *step: str) -> None:
        """Note how to undo what comes next: `write PATH TEXT`, `swapoff PATH`, `zram N`, `rmdir PATH`, `rmtree PATH`.

        ValueError for any other.
        """
        if step[0] not in _UNDO:
            raise ValueError(f"no way to undo {step[0]}")
        self._steps.append(step)
        self._save()

    def set(self, path: Path, text: str) -> None:
        """Write into a file of /proc or /sys; undo writes back what it said."""
        before = _chosen(path.read_text(encoding="ascii").strip())
        if before != text:
            self.will("write", str(path), before)
            path.write_text(text, encoding="ascii")

    def undo(self, mark: int = 0) -> None:
        """Undo what came after the mark, newest first. TmemError that names what could not be undone."""
        failed, stay = [], []
        with uninterrupted():
            while len(self._steps) > mark:
                step = self._steps[-1]
                try:
                    _undo(step)
                except (OSError, subprocess.SubprocessError) as error:
                    failed.append(f"{' '.join(step)} ({error})")
                    stay.append(step)
                self._steps.pop()
                self._save()
            if stay:  # the next start tries again
                self._steps += reversed(stay)
                self._save()
        if failed:
            raise TmemError(f"could not be undone, do it by hand: {'; '.join(failed)}")

    def _save(self) -> None:
        if self._steps:
            beside = self._journal.with_suffix(".new")
            beside.write_text(json.dumps({"started": _started(os.getpid()), "steps": self._steps}), encoding="utf-8")
            beside.replace(self._journal)
        else:
            self._journal.unlink(missing_ok=True)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and the like wait until the block is done.

    A mask would not do: the kernel then hands the signal to another thread, and Python's handler runs in this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    came: list[int] = []
    before = {each: signal.signal(each, lambda number, _frame: came.append(number)) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


def leftovers(directory: Path = JOURNALS) -> list[Path]:
    """Return the journals of runs that are no more."""
    found = []
    for journal in sorted(directory.glob(f"{_PREFIX}*.json")):
        number = journal.stem.removeprefix(_PREFIX)
        if number.isdecimal() and _started(int(number)) != _read(journal)[0]:
            found.append(journal)
    return found


def recover(directory: Path = JOURNALS) -> list[str]:
    """Undo what runs that were killed have left; return it in words. TmemError where that is not possible."""
    done, failed = [], []
    for journal in leftovers(directory):
        for step in reversed(_read(journal)[1]):
            try:
                _undo(step)
                done.append(" ".join(step))
            except (OSError, subprocess.SubprocessError) as error:
                failed.append(f"{' '.join(step)} ({error})")
        if not failed:
            journal.unlink()
    if failed:
        raise TmemError(f"a run that was killed left what could not be undone, do it by hand: {'; '.join(failed)}")
    return done


def _read(journal: Path) -> tuple[str, list[Step]]:
    try:
        said = json.loads(journal.read_text(encoding="utf-8"))
        return said["started"], [tuple(step) for step in said["steps"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TmemError(f"{journal} is no journal of ours ({error}): look at it, then remove it") from None


def _started(pid: int) -> str:
    """Return when a process began, as the kernel counts it; nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _chosen(text: str) -> str:
    """Return the value in force where a file shows all of them: `always [madvise] never`."""
    start, end = text.find("["), text.find("]")
    return text[start + 1 : end] if 0 <= start < end else text


def _undo(step: Step) -> None:
    _UNDO[step[0]](*step[1:])


def _write_back(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")


def _swap_off(path: str) -> None:
    if any(line.split()[0] == path for line in Path("/proc/swaps").read_text(encoding="utf-8").splitlines()):
        subprocess.run(["swapoff", path], check=True, capture_output=True, timeout=120)  # noqa: S603, S607 - ours


def _zram_off(number: str) -> None:
    """Reset the device, and remove it again where we added it."""
    block = Path(f"/sys/block/zram{number}")
    if block.exists():
        _patiently(lambda: (block / "reset").write_text("1", encoding="ascii"))
        _patiently(lambda: (ZRAM_CONTROL / "hot_remove").write_text(number, encoding="ascii"))


def _rmtree(path: str) -> None:
    """Remove a directory of files; only one that has our name."""
    if Path(path).name.startswith(_PREFIX) and Path(path).exists():
        shutil.rmtree(path)


def _rmdir(path: str) -> None:
    """Remove a cgroup; its last process may still be on its way out."""
    if Path(path).exists():
        _patiently(Path(path).rmdir)


def _patiently(act: Callable[[], object]) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            act()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


_UNDO: dict[str, Callable[..., None]] = {
    "write": _write_back,
    "swapoff": _swap_off,
    "zram": _zram_off,
    "rmdir": _rmdir,
    "rmtree": _rmtree,
}
