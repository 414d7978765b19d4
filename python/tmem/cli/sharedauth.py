# SPDX-License-Identifier: Apache-2.0
"""Allow a guest of the daemon to join the shared pool that has a secret, or no longer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from tmem.cli.guests import add_guest, ask, guest_of, tell

__all__ = ["add_arguments", "run"]

_DIGITS = 32
_HEX = frozenset("0123456789abcdef")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whom, which pool, and what."""
    add_guest(parser, several=False)
    parser.add_argument(
        "-u", "--uuid", "--secret", dest="secret", required=True, type=_secret, metavar="HEX",
        help="the pool's secret, 32 hexadecimal digits; - reads it from standard input, where no list of processes "
        "shows it",
    )  # fmt: skip
    parser.add_argument("-A", "--allow", choices=("0", "1"), required=True, help="1 allows it, 0 no longer does")
    parser.epilog = "A guest that is in the pool when it is no longer allowed is put out of it."


def run(options: argparse.Namespace) -> int:
    """Grant it or take the grant back."""
    allow = options.allow == "1"
    answer = ask(options, "shared-auth", guest=guest_of(options), secret=options.secret, allow=allow)
    done = "may join" if allow else "may no longer join"
    return tell(options, answer, f"guest {_who(options, answer)} {done} the shared pool of that secret")


def _who(options: argparse.Namespace, answer: object) -> str:
    """Say whom the kernel knows it as: a guest calls itself what it likes, another's name too."""
    if not isinstance(answer, Mapping) or not {"guest", "name", "pid", "user"} <= answer.keys():
        return str(options.guest)
    return f"{answer['guest']} ({answer['name']}, process {answer['pid']} of {answer['user']})"


def _secret(text: str) -> str:
    given = sys.stdin.readline() if text == "-" else text
    digits = given.strip().replace("-", "").lower()
    if len(digits) != _DIGITS or set(digits) - _HEX:
        message = f"a secret is {_DIGITS} hexadecimal digits (128 bits), with dashes or without"  # and is not repeated
        raise argparse.ArgumentTypeError(message)
    return digits
