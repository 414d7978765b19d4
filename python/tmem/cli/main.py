# SPDX-License-Identifier: Apache-2.0
"""The command line's one entry: finds the verb, runs it, and turns exceptions into exit codes.

Owns: exit codes. Called by the shell. Calls one verb, and imports no other. Exit codes are those of `env` and `docker
run`: 2 for wrong usage, 125 where tmem itself fails, 128+n after signal n, else what the verb returns.
"""

from __future__ import annotations

import os
import sys

from tmem.errors import SizeError, TmemError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

__all__ = ["FAILED", "main", "make_parser"]

FAILED = 125
_INTERRUPTED = 130
_VERBS = {
    name: name.replace("-", "")
    for name in (
        "run", "doctor", "stats", "daemon", "top", "list", "freeze", "thaw", "set", "balloon", "shared-auth",
        "freeable", "destroy", "demo", "bench",
    )
}  # fmt: skip
"""Each verb, with the module that it is in."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `tmem` with these arguments (the process's own by default) and return its exit code."""
    _have_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["run"]:
        from tmem.cli import run  # noqa: PLC0415 - no other verb is imported, and no argparse

        try:
            options = run.quick(given[1:])
        except KeyboardInterrupt:
            return _INTERRUPTED
        if options is not None:
            return _finish("run", lambda: run.run(options))
    named = [verb for verb in _VERBS if given[:1] == [verb]]
    parsed = make_parser(named or _VERBS).parse_args(given)
    return _finish(parsed.verb, lambda: parsed.run(parsed))


def _finish(verb: str, work: Callable[[], int]) -> int:
    """Run a verb and return the exit code."""
    try:
        code = int(work())
        sys.stdout.flush()  # here, where a reader that left is still met politely
        return code  # noqa: TRY300 - the return belongs to what may fail
    except SizeError as error:
        make_parser([verb]).error(str(error))
    except (TmemError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return _reader_left()
        print(f"tmem {verb}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"tmem {verb}: interrupted", file=sys.stderr)
        return _INTERRUPTED


def make_parser(verbs: Iterable[str] = _VERBS) -> argparse.ArgumentParser:
    """Return the parser of the command line, a sub-parser for each of these verbs."""
    import argparse  # noqa: PLC0415 - `tmem run` has no time for it

    from tmem import __version__  # noqa: PLC0415 - in the native module

    parser = argparse.ArgumentParser(
        prog="tmem", description="More than the RAM they may use, for arrays and programs."
    )
    parser.add_argument("--version", action="version", version=f"tmem {__version__}")
    children = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in verbs:
        verb = _module(name)
        summary = (verb.__doc__ or "").partition("\n")[0]
        child = children.add_parser(name, help=summary, description=summary)
        if not getattr(verb, "OWN_JSON", False):
            child.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
        verb.add_arguments(child)
        child.set_defaults(run=verb.run)
    return parser


def _module(verb: str) -> ModuleType:
    """Import a verb."""
    import importlib  # noqa: PLC0415 - `tmem run` has no time for it

    return importlib.import_module(f"tmem.cli.{_VERBS[verb]}")


def _have_streams() -> None:
    """Where standard output or error is closed, what is written to it goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - for good


def _reader_left() -> int:
    """Whoever read our output (`| head`) is gone: end quietly, as a program that SIGPIPE ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13


if __name__ == "__main__":
    sys.exit(main())
