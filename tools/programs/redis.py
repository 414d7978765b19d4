# SPDX-License-Identifier: Apache-2.0
"""A redis-server that is filled, benchmarked, and asked for every value again.

Owns: what is said to it. Called by catalogue; runs in a thread of launch, beside the server. The answer is a digest of
all values as the server gives them back; `redis-benchmark` reads them, and writes under keys of its own.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tools.programs.material import values

__all__ = ["SOCKET", "fill_file", "server", "talk"]

SOCKET = "redis.sock"
_KEYS = 125_000
_FILE = "values.resp"
_PATIENCE = 60.0
_BATCH = 64


def server() -> list[str]:
    """Return the words that start it in the working directory: no port, no snapshots."""
    return [
        "redis-server", "--port", "0", "--unixsocket", SOCKET, "--save", "", "--appendonly", "no",
        "--logfile", "redis.log", "--dir", ".",
    ]  # fmt: skip


def fill_file(directory: Path) -> None:
    """Write what `redis-cli --pipe` is given: 500 MB of values, each under its number."""
    with (directory / _FILE).open("wb") as file:
        for number, value in enumerate(values(_KEYS)):
            file.write(_said(b"SET", _key(number), value))


def talk(directory: Path) -> str:
    """Fill the server, benchmark it, read each value back, and end it. RuntimeError where one of them fails."""
    path = str(directory / SOCKET)
    with _connected(path) as connection:
        with (directory / _FILE).open("rb") as file:
            _client(["redis-cli", "-s", path, "--pipe"], stdin=file)
        keys = ["-r", str(_KEYS), "-n", "30000", "-c", "20", "-P", "4", "-q"]
        _client(["redis-benchmark", "-s", path, *keys, "GET", "value:__rand_int__"])
        _client(["redis-benchmark", "-s", path, "-n", "10000", "-d", "2000", "-q", "-t", "set,lpush,lpop"])
        digest = hashlib.sha256()
        for value in _all_values(connection):
            digest.update(value)
        connection.sendall(_said(b"SHUTDOWN", b"NOSAVE"))
    return digest.hexdigest()


def _client(command: list[str], stdin: BinaryIO | None = None) -> None:
    """Run a client to its end. Its exit code is 0 only where the server refused nothing."""
    done = subprocess.run(command, stdin=stdin or subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")


def _connected(path: str) -> socket.socket:
    """Return a connection as soon as the server listens."""
    end = time.monotonic() + _PATIENCE
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return connection


def _all_values(connection: socket.socket) -> Iterator[bytes]:
    with connection.makefile("rb") as answers:
        for start in range(0, _KEYS, _BATCH):
            numbers = range(start, min(start + _BATCH, _KEYS))
            connection.sendall(b"".join(_said(b"GET", _key(number)) for number in numbers))
            for number in numbers:
                head = answers.readline()
                if not head.startswith(b"$") or head == b"$-1\r\n":
                    raise RuntimeError(f"the value of {number} is {head!r}")
                length = int(head[1:])
                yield answers.read(length + 2)[:length]


def _key(number: int) -> bytes:
    """Return the key of a number, as `redis-benchmark` writes its random ones."""
    return b"value:%012d" % number


def _said(*words: bytes) -> bytes:
    """Return a command in the server's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
