# SPDX-License-Identifier: Apache-2.0
"""Starting a program under a RAM budget: everything is checked, then this process becomes the program.

Owns: the checks, the environment the program gets, the exec. Called by cli.run and doctor. Calls elf, ledger, limits,
swapdir and the native module's probe.
Law: what cannot be served is refused before the program starts, with the reason and the next step; the program gets the
process as it was (number, terminal, descriptors, signals, environment) but for LD_PRELOAD and TMEM_RUN.
"""

from __future__ import annotations

import errno
import os
import stat

from tmem import _core, elf, hostpath, ledger
from tmem.errors import KernelUnsupported, SizeError, TmemError
from tmem.limits import budget_of
from tmem.settings import swap_of
from tmem.swapdir import plan_swap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from tmem.settings import Setting

__all__ = [
    "Budget",
    "ProgramError",
    "become",
    "budget_from",
    "entry_for",
    "find",
    "inherited",
    "preload_object",
    "verify",
]

NOT_EXECUTABLE, NOT_FOUND = 126, 127
_SHELL = "/bin/sh"
_DEEPEST = 5
_UNQUOTED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/")
_INSTEAD = "start it without tmem run"


class ProgramError(TmemError):
    """The program cannot be started, tmem or not; `code` is what env(1) exits with: 126, or 127 for not found."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Budget:
    """What a run is given: bytes of RAM, where its swap device is and how large, and the rest of its settings."""

    __slots__ = ("faults", "host", "host_uid", "json", "ram", "report", "swap_bytes", "swap_dir", "warning")

    def __init__(self, settings: Mapping[str, Setting], env: Mapping[str, str]) -> None:
        self.ram = budget_of(str(settings["ram"].value), _core.MIN_RAM)
        swap = plan_swap(swap_of(str(settings["swap"].value)), self.ram)
        self.swap_dir, self.swap_bytes, self.warning = swap.directory, swap.count, swap.warning
        self.faults = str(settings["faults"].value)
        self.report = bool(settings["report"].value)
        host = str(settings["host"].value or "none")
        self.host = (hostpath.find(host, env) if host != "none" else None) or ""
        self.host_uid = hostpath.trusted_uid(env) if self.host else None
        self.json = str(settings["json"].value or "")


def budget_from(settings: Mapping[str, Setting], env: Mapping[str, str] | None = None) -> Budget:
    """Return what these settings mean on this machine. TmemError where it cannot give that, or where swap cannot be."""
    try:
        budget = Budget(settings, os.environ if env is None else env)
    except SizeError as error:  # the words are right; the machine, or the limit, is too small for them
        raise TmemError(
            f"{error} (ram is from {settings['ram'].origin}, swap from {settings['swap'].origin})"
        ) from None
    if budget.json:
        budget.json = os.path.abspath(budget.json)  # the program may change its directory before it ends
        there = os.path.exists(budget.json)
        if os.path.isdir(budget.json) or not os.access(budget.json if there else os.path.dirname(budget.json), os.W_OK):
            origin = settings["json"].origin
            raise TmemError(
                f"the report {budget.json} ({origin}) cannot be written: name a file in a writable directory"
            )
    return budget


def inherited() -> dict[str, str]:
    """Return the environment as this process got it, before Python set LC_CTYPE in it."""
    try:
        with open("/proc/self/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError as error:
        raise TmemError(f"/proc/self/environ: {error.strerror}: tmem run needs /proc mounted") from None
    pairs = (word.partition(b"=") for word in reversed(words) if b"=" in word[1:])  # of two the first counts
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def preload_object() -> str:
    """Return the path of the object that is preloaded. TmemError where the loader would not take it, and why."""
    home = os.path.dirname(os.path.abspath(__file__))
    names = sorted(name for name in os.listdir(home) if name.startswith("_preload") and name.endswith(".so"))
    if not names:
        raise TmemError(f"the preload object, _preload*.so in {home}, is missing: install tmem again")
    path = f"{home}/{names[0]}"
    if not os.access(path, os.R_OK):
        raise TmemError(f"the preload object {path} cannot be read by this user: install tmem where it can")
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise TmemError(f"the preload object {path} is on a file system mounted noexec: install tmem on another")
    if set(path) & set(": \t\n"):
        raise TmemError(f"LD_PRELOAD takes no path with a blank or a colon, as {path!r} is: install tmem elsewhere")
    return path


def entry_for(faults: str, probe: Mapping[str, Any] | None = None) -> str:
    """Return the fault entry that a run uses here, `auto` or named. KernelUnsupported where that cannot be.

    `auto` is `thread` where the kernel serves faults inside system calls to it, else `signal`.
    """
    found = _core.probe() if probe is None else probe
    entries, guarded = found["entries"], found["guarded"]
    if faults != "auto":
        if entries[faults]:
            raise KernelUnsupported(f"faults={faults}: {entries[faults]}")
        return faults
    for name in sorted(entries, key=lambda name: (guarded[name], name != "signal")):
        if not entries[name]:
            return str(name)
    raise KernelUnsupported("; ".join(f"{name} entry: {reason}" for name, reason in entries.items()))


def find(name: str, env: Mapping[str, str]) -> str:
    """Return the path of a program, looked up as execvp(3) does. ProgramError with 127 or 126 where there is none."""
    denied = ""
    for directory in [""] if "/" in name else env.get("PATH", "/bin:/usr/bin").split(":"):
        path = f"{directory}/{name}" if directory else name
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            denied = denied or f"{path}: {error.strerror}"
            continue
        if name and stat.S_ISREG(mode) and os.access(path, os.X_OK):
            return path
        denied = denied or f"{path}: {'it is a directory' if stat.S_ISDIR(mode) else 'permission denied'}"
    if name and denied:
        raise ProgramError(f"{denied}: a program must be a file that this user may execute", NOT_EXECUTABLE)
    where = "" if "/" in name else " on PATH"
    raise ProgramError(f"{name!r}: not found{where}: check the name, or give its path", NOT_FOUND)


def verify(path: str, env: Mapping[str, str]) -> None:
    """Look into a program and, if it is a script, into what runs it. TmemError where no preload object reaches it.

    A file that is neither is left to the kernel, and to the shell where the kernel does not know it.
    """
    asked = path
    for _ in range(_DEEPEST):
        try:
            image = elf.inspect(path)
        except PermissionError:
            raise TmemError(f"{path} may not be read, so that it cannot be checked: chmod a+r, or {_INSTEAD}") from None
        except ValueError as error:
            raise ProgramError(f"{path}: {error}: it is damaged", NOT_EXECUTABLE) from None
        if image.kind == "elf":
            _verify_elf(path, image)
        if image.kind != "script":
            return
        script, path = path, image.interpreter
        if not os.path.isfile(path) or not os.access(path, os.X_OK):
            code = NOT_EXECUTABLE if os.path.exists(path) else NOT_FOUND
            raise ProgramError(f"{script}: its interpreter {path!r} is not there or may not be executed", code)
        named = _named_to_env(image.argument) if os.path.basename(path) == "env" else ""
        if named:
            verify(path, env)
            path = find(named, env)
    raise ProgramError(f"{asked}: more than {_DEEPEST} interpreters deep", NOT_EXECUTABLE)


def become(words: Sequence[str], path: str, budget: Budget, env: Mapping[str, str]) -> NoReturn:
    """Make the ledger and turn this process into the program. ProgramError where the kernel refuses."""
    _refuse_nested(env)
    preload = preload_object()
    ledger.sweep(env)
    account = ledger.create(budget.ram, env)
    others = [word for word in env.get("LD_PRELOAD", "").replace(":", " ").split() if word != preload]
    changed = dict(env) | {"LD_PRELOAD": ":".join([preload, *others]), "TMEM_RUN": _fields(budget, account)}
    try:
        _restore_signals()
        try:
            os.execve(path, list(words), changed)  # noqa: S606 - this is what is asked for
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            verify(_SHELL, env)
            os.execve(_SHELL, [_SHELL, path, *words[1:]], changed)  # noqa: S606 - as execvp(3) does
    except OSError as error:
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        raise ProgramError(f"{path}: {error.strerror}", code) from None
    finally:
        os.unlink(account)  # only where there was no exec


def _verify_elf(path: str, image: elf.Image) -> None:
    if reason := elf.refusal_of(image) or _privileges(path):
        raise TmemError(f"{path} cannot be run under a budget: {reason}; {_INSTEAD}")
    if not os.path.exists(image.loader):
        raise ProgramError(f"{path}: its loader {image.loader} does not exist", NOT_FOUND)


def _privileges(path: str) -> str:
    """Return why the loader would ignore LD_PRELOAD: the file brings privileges of its own."""
    mode = os.stat(path).st_mode
    if mode & stat.S_ISUID or (mode & stat.S_ISGID and mode & stat.S_IXGRP):
        which = "setuid" if mode & stat.S_ISUID else "setgid"
        return f"it is {which}, and the loader preloads nothing into what brings privileges"
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        return ""
    return "it has file capabilities, and the loader preloads nothing into what brings privileges"


def _named_to_env(argument: str) -> str:
    """Return the program that `#!/usr/bin/env ARGUMENT` runs; the empty text where env alone knows."""
    words = argument.split()
    if words and words[0].startswith(("-S", "-vS")):
        words[0] = words[0].partition("S")[2]
    elif len(words) != 1:
        return ""  # the kernel passes all of it as one word
    named = [word for word in words if word and "=" not in word]
    return "" if named and named[0].startswith("-") else next(iter(named), "")


def _refuse_nested(env: Mapping[str, str]) -> None:
    """Refuse to be under another budget already: a tree has one, and this would leave it."""
    path = ledger.fields_of(env.get("TMEM_RUN", "")).get("ledger", "")
    try:
        alive = [pid for pid, since in ledger.processes(path) if ledger.start_time(pid) == since]
    except OSError:
        return  # of a tree that is gone
    if alive:
        raise TmemError(
            f"this is part of a process tree that has a budget already (process {alive[0]}): start it without tmem run"
        )


def _fields(budget: Budget, account: str) -> str:
    """Return what the preload object is told."""
    told = {
        "v": "1",
        "ram": str(budget.ram),
        "swap": budget.swap_dir or "none",
        "swap_max": str(budget.swap_bytes),
        "faults": budget.faults,
        "report": str(int(budget.report)),
        **({"json": budget.json} if budget.json else {}),
        **({"host": budget.host} if budget.host else {}),
        **({"host_uid": str(budget.host_uid)} if budget.host_uid is not None else {}),
        "ledger": account,
        "root": str(os.getpid()),
    }
    return ";".join(f"{name}={_quoted(value)}" for name, value in told.items())


def _quoted(text: str) -> str:
    """Return a value percent-encoded, as urllib.parse.quote does, which takes too long to import."""
    return "".join(chr(byte) if chr(byte) in _UNQUOTED else f"%{byte:02X}" for byte in os.fsencode(text))


def _restore_signals() -> None:
    """Undo what Python's start did: it ignores SIGPIPE and SIGXFSZ. Whether they were ignored before, it does not tell.

    SIGINT is as it was: Python takes it over only where it was not ignored, and exec drops handlers.
    """
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - what signal wraps, without its enums

    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
