# SPDX-License-Identifier: Apache-2.0
"""The command line's one entry: finds the verb, runs it, and turns exceptions into exit codes.

Owns: exit codes. Called by the shell. Calls one verb. Exit codes are those of `env` and `docker run`: 2 for wrong
usage, 125 where tmem itself fails, 128+n after signal n, else what the verb returns.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from tmem import __version__
from tmem.cli import bench, demo, doctor, stats
from tmem.errors import SizeError, TmemError

__all__ = ["FAILED", "main", "make_parser"]

FAILED = 125
_INTERRUPTED = 130
_VERBS: tuple[ModuleType, ...] = (doctor, stats, demo, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `tmem` with these arguments (the process's own by default) and return its exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()  # here, where a reader that left is still met politely
        return code  # noqa: TRY300 - the return belongs to what may fail
    except SizeError as error:
        parser.error(str(error))
    except (TmemError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return _reader_left()
        print(f"tmem {options.verb}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"tmem {options.verb}: interrupted", file=sys.stderr)
        return _INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, a sub-parser for each verb."""
    parser = argparse.ArgumentParser(prog="tmem", description="Arrays larger than the RAM they may use.")
    parser.add_argument("--version", action="version", version=f"tmem {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in _VERBS:
        summary = (verb.__doc__ or "").partition("\n")[0]
        name = verb.__name__.rpartition(".")[2]
        child = verbs.add_parser(name, help=summary, description=summary)
        if not getattr(verb, "OWN_JSON", False):
            child.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
        verb.add_arguments(child)
        child.set_defaults(run=verb.run)
    return parser


def _reader_left() -> int:
    """Whoever read our output (`| head`) is gone: end quietly, as a program that SIGPIPE ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13


if __name__ == "__main__":
    sys.exit(main())
