# SPDX-License-Identifier: Apache-2.0
"""Run a program, unmodified, with its memory under a RAM budget.

Owns: the options of `tmem run` and what it says. Called by main, which lets it read its options itself: argparse takes
as long to import as Python takes to start. Calls settings and launch.
"""

from __future__ import annotations

import sys

from tmem import launch, settings
from tmem.errors import KernelUnsupported, SizeError, TmemError
from tmem.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from tmem.settings import Setting

__all__ = ["OWN_JSON", "add_arguments", "quick", "run"]

OWN_JSON = True
"""`--json` names a file here: standard output belongs to the program."""

_RAM = (
    "the budget of the program and of all that it starts: 2G (1024-based), 512MiB, 1.5GB, 50%%, or auto (the default), "
    "which is half of what the machine or the cgroup allows"
)
_SWAP = (
    "where pages go that RAM has no room for, packed or not: a SIZE, a DIR, DIR:SIZE, none, or auto (the default): a "
    "file without a name in a directory on a disk, at most 16 times the budget and half of what is free"
)
_FAULTS = (
    "how missing pages are served: signal (in the thread that misses them), thread (by a thread beside), or auto (the "
    "default), which is thread where that serves system calls too, else signal"
)
_HOST = (
    "take memory on lease from a daemon, beside the budget, and give it back when it asks: --host=PATH names its "
    "socket; --host alone, or auto, is TMEM_HOST or the first found where daemons have theirs; without one the program "
    "runs alone"
)
_OPTIONS = (
    ("ram", "SIZE", _RAM),
    ("swap", "WHERE", _SWAP),
    ("faults", "ENTRY", _FAULTS),
    ("host", "PATH", _HOST),
    ("json", "FILE", "write a report there when the program has ended; with --show-config, - prints JSON"),
    ("config", "FILE", "settings, instead of those of ./tmem.toml or [tool.tmem.run] in ./pyproject.toml"),
)
_BARE = {"host": "auto"}
"""What an option means that stands alone: the word after it is none of its."""
_FLAGS = (
    ("report", "print a report on standard error when the program has ended"),
    ("no-report", "do not, whatever the environment and the files say"),
    ("show-config", "print each setting and where it is from, and run nothing"),
)
_EPILOG = (
    "The first word that is no option is the program; `--` ends the options, too. Each setting is looked for in the "
    "flags; in TMEM_RAM, TMEM_SWAP, TMEM_FAULTS, TMEM_HOST, TMEM_REPORT and TMEM_JSON; in the file that --config or "
    "TMEM_CONFIG names, or else ./tmem.toml, table [run], or ./pyproject.toml, table [tool.tmem.run]; in "
    "~/.config/tmem/config.toml; in /etc/tmem/tmem.toml. Exit code: the program's own; 125 where tmem cannot serve it, "
    "with the reason; 126 where it may not be executed; 127 where it is not found."
)


class _Options:
    """What was given, under the names that argparse gives."""

    def __init__(self) -> None:
        self.ram: str | None = None
        self.swap: str | None = None
        self.faults: str | None = None
        self.host: str | None = None
        self.json: str | None = None
        self.config: str | None = None
        self.report = False
        self.no_report = False
        self.show_config = False
        self.program: list[str] = []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options and the program."""
    parser.allow_abbrev = False
    for name, value, text in _OPTIONS:
        choices = settings.FAULTS if name == "faults" else None
        shown, many = None if choices else value, "?" if name in _BARE else None
        bare = _BARE.get(name)
        parser.add_argument(f"--{name}", metavar=shown, choices=choices, help=text, nargs=many, const=bare)
    for name, text in _FLAGS:
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument("program", nargs="...", metavar="PROG", help="the program and its arguments")
    parser.epilog = _EPILOG


def quick(words: Sequence[str]) -> _Options | None:
    """Return the options of a well-formed command line; None for any other, which argparse explains."""
    options = _Options()
    values, flags = {name for name, *_ in _OPTIONS}, {name for name, _ in _FLAGS}
    waiting = iter(words)
    for word in waiting:
        if not word.startswith("-") or word == "-":
            options.program = [word, *waiting]
        elif word == "--":
            options.program = list(waiting)
        elif word[2:] in flags and word.startswith("--"):
            setattr(options, word[2:].replace("-", "_"), True)
        else:
            name, equals, value = word[2:].partition("=")
            if not equals and word[:2] == "--" and name in _BARE:
                equals, value = "=", _BARE[name]
            if not equals:
                value = next(waiting, "--")
            if (
                not word.startswith("--")
                or name not in values
                or (not equals and value.startswith("-") and value != "-")
            ):
                return None
            setattr(options, name, value)
    usable = options.faults is None or options.faults in settings.FAULTS
    return options if usable and (options.program or options.show_config) else None


def run(options: _Options | argparse.Namespace) -> int:
    """Become the program. Returns only where it cannot, or with --show-config."""
    env = launch.inherited()
    printed = options.show_config and options.json == "-"
    flags = {
        "ram": options.ram,
        "swap": options.swap,
        "faults": options.faults,
        "host": options.host,
        "report": False if options.no_report else options.report or None,
        "json": None if printed else options.json,
    }
    found = settings.resolve(flags, env, options.config)
    if options.show_config:
        _show(found, env, as_json=printed)
        return 0
    words = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not words:
        raise SizeError("the program to run is missing")
    if options.json == "-":
        raise SizeError("--json - would mix with what the program prints: name a file")
    try:
        _start(words, found, env)
    except launch.ProgramError as error:
        print(f"tmem run: {error}", file=sys.stderr)
        return error.code
    except KernelUnsupported as error:
        raise TmemError(f"{error}{_remedies()}") from None


def _start(words: Sequence[str], found: Mapping[str, Setting], env: Mapping[str, str]) -> NoReturn:
    path = launch.find(words[0], env)
    launch.verify(path, env)
    budget = launch.budget_from(found, env)
    launch.entry_for(budget.faults)
    if budget.warning:
        print(f"tmem run: {budget.warning}", file=sys.stderr)
    launch.become(words, path, budget, env)


def _remedies() -> str:
    """Return what doctor says to change."""
    from tmem.doctor import examine  # noqa: PLC0415 - slow, and wanted only where nothing starts

    needed = [
        f"{finding.what} -> {finding.remedy}" for finding in examine().findings if finding.needed and not finding.ok
    ]
    return "".join(f"\n  {line}" for line in needed)


def _show(found: Mapping[str, Setting], env: Mapping[str, str], *, as_json: bool) -> None:
    """Print each setting and its origin, and what all of them mean on this machine."""
    try:
        budget = launch.budget_from(found, env)
        meant = {"ram": budget.ram, "swap_dir": budget.swap_dir, "swap_bytes": budget.swap_bytes, "host": budget.host}
        words = f"{format_size(budget.ram)} of RAM"
        words += (
            f", swap up to {format_size(budget.swap_bytes)} in {budget.swap_dir}" if budget.swap_dir else ", no swap"
        )
        words += f", leases from {budget.host}" if budget.host else ", no daemon" if found["host"].value else ""
    except TmemError as error:
        meant, words = {"refused": str(error)}, str(error)
    if as_json:
        import json  # noqa: PLC0415 - slow, and wanted only here

        shown = {name: {"value": one.value, "origin": one.origin} for name, one in found.items()}
        print(json.dumps({"settings": shown, "budget": meant}, indent=2))
        return
    for name, one in found.items():
        value = "none" if one.value is None else str(one.value).lower() if name == "report" else str(one.value)
        print(f"{name:<7} {value:<24} {one.origin}")
    print(f"here: {words}")
