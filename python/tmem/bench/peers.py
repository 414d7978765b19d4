# SPDX-License-Identifier: Apache-2.0
"""Who is measured: the peers, what each needs, and why one cannot be measured here.

Owns: the list of peers. Called by plan and measure. Calls kernel, for what the machine has.
A peer on a disk may take milliseconds an access: each of its patterns ends behind `seconds`, where they are given.
`budget` says whose memory ours is given in the same round: peers of one word are compared with the same run of ours.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tmem.bench import kernel
from tmem.bench.kernel import Need

__all__ = ["PEERS", "UNLIMITED", "Peer", "missing"]

_PATIENCE = 3.0
UNLIMITED = "blosc2"
"""The budget of a peer that takes what it needs: no residency, so ours gets what it took."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer: what it is, its kind of memory, what the kernel is told of that, what it must have, its budget's word."""

    text: str
    memory: str = "anonymous"
    advice: str = ""
    need: Need | None = None
    budget: str = "zram"
    walks: bool = True
    seconds: float = 0.0


PEERS = {
    "plain": Peer("plain memory, without a limit", memory="plain", budget=""),
    "zram": Peer("the kernel's zram swap, lz4", need=Need("zram", "lz4")),
    "zram-default": Peer("the kernel's zram swap, its default algorithm", need=Need("zram")),
    "zram-cluster0": Peer("zram lz4 with vm.page-cluster=0", need=Need("zram", "lz4", cluster=0)),
    "zram-thp": Peer("zram lz4 with MADV_HUGEPAGE", advice="huge", need=Need("zram", "lz4", huge=".")),
    "zram-mthp64k": Peer(
        "zram lz4 with huge pages of 64 KiB", advice="huge", need=Need("zram", "lz4", huge="hugepages-64kB")
    ),
    "zram-random": Peer("zram lz4 with MADV_RANDOM", advice="random", need=Need("zram", "lz4")),
    "zswap": Peer(
        "zswap over a swap file, with the compressor set here", need=Need("zswap"), budget="zswap", seconds=_PATIENCE
    ),
    "swapfile": Peer("a bare swap file", need=Need("file"), budget="limit", seconds=_PATIENCE),
    "memmap": Peer(
        "numpy.memmap of a file, in a memory cgroup", memory="memmap", need=Need(""), budget="limit", seconds=_PATIENCE
    ),
    "blosc2": Peer("blosc2's compressed arrays", memory="blosc2", budget=UNLIMITED, walks=False),
}


def missing(name: str, nbytes: int) -> tuple[str, str]:
    """Return why a peer cannot be measured here with `nbytes` of data, and what to do; two empty texts where it can."""
    peer = PEERS[name]
    if name == "blosc2" and importlib.util.find_spec("blosc2") is None:
        return "blosc2 is not installed", "pip install 'tmem[bench,blosc2]'"
    if peer.need is None:
        return "", ""
    checks = [kernel.cgroup_missing]
    if peer.need.swap == "zram":
        checks.append(lambda: kernel.zram_missing(peer.need.algorithm if peer.need else ""))
    if peer.need.swap == "zswap":
        checks.append(kernel.zswap_missing)
    if peer.need.swap != "zram":
        checks.append(lambda: kernel.disk_missing(nbytes))
    if peer.need.huge:
        checks.append(lambda: kernel.huge_missing(peer.need.huge if peer.need else ""))
    for check in checks:
        reason, remedy = check()
        if reason:
            return reason, remedy
    if name == "zram-default":
        return _same_as_zram()
    return "", ""


def _same_as_zram() -> tuple[str, str]:
    """Say so where the default is lz4, as a device shows that nobody set up."""
    for device in sorted(Path("/sys/block").glob("zram*")):
        idle = (device / "disksize").read_text(encoding="ascii").strip() == "0"
        if idle and kernel.algorithm(device) == "lz4":
            return "lz4 is the default here: it is the peer zram", ""
    return "", ""
