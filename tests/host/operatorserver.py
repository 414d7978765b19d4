# SPDX-License-Identifier: Apache-2.0
"""A daemon's administrator's socket without a daemon: a thread that answers from a record, and notes what was asked."""

from __future__ import annotations

import copy
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

MIB = 1 << 20


def guest(number: int, name: str, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": number, "name": name, "pid": 4000 + number, "uid": 1000, "user": "alice", "cgroup": "/user.slice",
        "weight": 1, "cap": None, "reservation": 0, "compress": True, "frozen": False, "persistent_bytes": 64 * MIB,
        "ephemeral_bytes": 16 * MIB, "shared_bytes": 0, "share_bytes": 256 * MIB, "want_bytes": 0, "connected": 75.0,
        "balloon": None, "ram": 512 * MIB, "resident": 300 * MIB, "standby": 20 * MIB, "store_bytes": 40 * MIB,
        "leased_used": 60 * MIB, "stored_pages": 30000, "swap_bytes": 0, "faults": 1000, "fault_ns": 10**9,
        "loads": 500, "stores": 700, "refused_full": 0, "sampled": 100, "active": 25, "faults_s": 120.0,
        "stall": 0.05, "refused": {},
    }  # fmt: skip
    return made | changes


def record() -> dict[str, Any]:
    """Three guests: one large and stalled, one frozen, one idle."""
    host = {
        "version": "1.0.0", "policy": "weighted", "capacity": 1024 * MIB, "extent_bytes": 4 * MIB,
        "leased_bytes": 640 * MIB, "free_bytes": 384 * MIB, "freeable_bytes": 128 * MIB, "guests": 3, "pools": 1,
        "pressure": 0.02, "since": 1.0,
        "counters": {"leases": 90, "granted": 160, "refused": {"host-full": 3}, "revoked": 8, "given": 40, "claimed": 0,
                     "deaths": 2, "malformed": 0, "rate_limited": 0},
    }  # fmt: skip
    guests = [
        guest(3, "train", weight=2, cap=768 * MIB, persistent_bytes=448 * MIB, ephemeral_bytes=0, share_bytes=512 * MIB,
              want_bytes=8 * MIB, resident=480 * MIB, swap_bytes=90 * MIB, stall=0.31, faults_s=5200.0,
              refused={"host-full": 3, "over-cap": 1}),
        guest(4, "web", user="bob", uid=1001, frozen=True, persistent_bytes=32 * MIB, ephemeral_bytes=80 * MIB,
              resident=100 * MIB),
        guest(11, "batch", balloon=128 * MIB, resident=128 * MIB, standby=0, stall=0.0, faults_s=0.0),
    ]  # fmt: skip
    pools = [{"id": 1, "members": [3, 4], "bytes": 16 * MIB}]
    return {"host": host, "guests": guests, "pools": pools}


class OperatorServer:
    """Answers at `path` + ".admin" until it is stopped; may be started again. `asked` is all it was asked."""

    def __init__(self, path: Path, known: dict[str, Any] | None = None) -> None:
        self.path = path
        self.known = record() if known is None else known
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.raw: bytes | None = None  # answered instead, where it is set
        self.grow: Callable[[dict[str, Any]], None] = lambda _known: None  # done at each `list`
        self._links: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(f"{self.path}.admin")
        listener.listen()
        self._listener = listener
        self._thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None or self._thread is None:
            return
        listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        listener.close()
        for link in self._links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        self._links.clear()
        Path(f"{self.path}.admin").unlink()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                link, _ = listener.accept()
                self._links.append(link)
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with suppress(OSError):
            while packet := link.recv(1 << 16):
                verb, arguments = msgspec.msgpack.decode(packet)
                self.asked.append((verb, arguments))
                link.send(self.raw or msgspec.msgpack.encode(self._answer(verb, arguments)))

    def _answer(self, verb: str, arguments: dict[str, Any]) -> list[Any]:
        if verb == "list":
            self.grow(self.known)
            found = copy.deepcopy(self.known)
            found["guests"] = self._matching(arguments["guest"])
            return ["ok", found]
        if verb == "ping":
            return ["ok", {"version": 1}]
        if verb == "freeable":
            return ["ok", {"bytes": self.known["host"]["freeable_bytes"]}]
        meant = self._matching(arguments["guest"])
        if not meant and arguments["guest"] is not None:
            return ["failed", f"no guest is {arguments['guest']!r}"]
        if verb in {"destroy", "shared-auth"} and len(meant) != 1:
            return ["failed", f"{len(meant)} guests are {arguments['guest']!r}: name one"]
        if verb == "destroy":
            self.known["guests"].remove(meant[0])
            return [
                "ok",
                {"guest": meant[0]["id"], "bytes": meant[0]["persistent_bytes"] + meant[0]["ephemeral_bytes"]},
            ]
        if verb == "shared-auth":
            return ["ok", {"guest": meant[0]["id"], "allowed": arguments["allow"]}]
        for one in meant:
            if verb in {"freeze", "thaw"}:
                one["frozen"] = verb == "freeze"
        return ["ok", {"guests": [one["id"] for one in meant]}]

    def _matching(self, named: str | None) -> list[dict[str, Any]]:
        guests: list[dict[str, Any]] = self.known["guests"]
        if named is None:
            return guests
        return [
            one
            for one in guests
            if named in {str(one["id"]), one["name"], f"pid:{one['pid']}", f"user:{one['user']}", f"user:{one['uid']}"}
        ]
