# SPDX-License-Identifier: Apache-2.0
"""One measured process: patterns, jobs or cold faults in one memory, all checked: `python -m tmem.bench.worker SPEC`.

Owns: the order of things in that process. Called by measure, which reads lines of JSON. What is not to be measured and
not to be limited (imports, orders, the data set's pages, a first small run of each job) is done before it says `ready`;
then it waits for a line, and by then it may be under a memory limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tmem.bench.cold import absent_pages, cold_order, reading, send_out, settle
from tmem.bench.jobs import JobData, NotThere, Plain, run_job
from tmem.bench.patterns import mode, orders
from tmem.bench.places import Paged, make_place, make_whole
from tmem.bench.walk import PAGE, Walker

__all__ = ["main"]

_MAP_POPULATE = 0x8000
_PR_SET_PDEATHSIG = 1
_SMALL = 1 << 16  # numbers

Bytes = npt.NDArray[np.uint8]


def main() -> None:
    """Do what the specification says."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody is left under the limit
    spec = json.loads(sys.argv[1])
    area = mmap.mmap(spec["fd"], spec["bytes"], flags=mmap.MAP_SHARED | _MAP_POPULATE, prot=mmap.PROT_READ)
    source = np.frombuffer(area, np.uint8)
    {"walk": _walk, "jobs": _jobs, "cold": _cold}[spec["kind"]](spec, source)


def _walk(spec: dict[str, Any], source: Bytes) -> None:
    pages = spec["bytes"] // PAGE
    chosen = {name: orders(name, pages, spec["seed"], spec["threads"]) for name in spec["steps"]}
    walker = Walker(source, spec["seed"])
    before = _ready()
    place = make_place(spec)
    walker.memory = make_whole(spec, place)
    for name, order in chosen.items():
        _say(step=name, **walker.walk(mode(name), order, spec["seconds"]).as_dict())
    walker.verify()
    _ended(place, before)


def _cold(spec: dict[str, Any], source: Bytes) -> None:
    """Fill a memory, send all of it out where that is asked for, let it become cold, and touch pages, each once."""
    fill = orders("fill", spec["bytes"] // PAGE, spec["seed"], 1)
    walker = Walker(source, spec["seed"])
    before = _ready()
    place = make_place(spec)
    _say(step="new", **reading(place))
    walker.memory = make_whole(spec, place)
    walker.walk("fill", fill)
    _say(step="filled", **reading(place))
    if spec["send_out"]:
        send_out(walker.memory, place)
    _say(step="warm", **reading(place))
    waited = settle(place)
    _say(step="cold", waited=waited, **reading(place))
    order = cold_order(absent_pages(walker.memory), spec["faults"], spec["seed"])
    if order.size:
        _say(step="faults", **walker.walk("read", [order]).as_dict())
    walker.verify()
    _ended(place, before)


def _jobs(spec: dict[str, Any], source: Bytes) -> None:
    table = spec["data"] == "flights"
    data = JobData(source, tuple(tuple(column) for column in spec["columns"]), table)
    small = JobData(source, tuple((kind, at, min(rows, _SMALL // 16)) for kind, at, rows in data.columns), table)
    names = [name.removeprefix("job:") for name in spec["steps"]]
    for name in names:
        run_job(name, small, Plain())
    before = _ready()
    place = make_place(spec)
    for name in names:
        try:
            _say(step=f"job:{name}", **asdict(run_job(name, data, place)), accesses=1)
        except NotThere as answer:
            _say(step=f"job:{name}", not_there=str(answer))
    _ended(place, before)


def _ready() -> int:
    """Wait until the work may begin; return how much is resident before it."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        sys.exit("nobody wants the work any more")
    with contextlib.suppress(OSError):  # the peak begins anew; where it may not, start-up counts as well
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _ended(place: object, before: int) -> None:
    _say(peak=max(0, _status("VmHWM") - before), verified=True)
    if isinstance(place, Paged):
        _say(**place.ended(), entry=place.memory.faults)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(f"{field}:"))


def _say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
