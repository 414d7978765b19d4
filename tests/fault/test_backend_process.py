# SPDX-License-Identifier: Apache-2.0
"""Python backends in processes of their own, under a real pager: what comes back, and what dies with whom."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

import tmem
from tests.dictbackends import DictBackend, KeepsABuffer
from tmem import _core, backendprocess
from tmem.backendprocess import ProcessBackend

ROOT = str(Path(__file__).resolve().parents[2])
OPEN = f"""
sys.path.insert(0, {ROOT!r})
import time
from tests import dictbackends
from tmem import backendprocess

def processes(memory):
    return [one.pid for one in memory._backends if not isinstance(one, str)]

def fill(memory, count=3 << 20):
    array = memory.empty(count, "i8")
    array[:] = np.arange(count)
    memory.evict(array)
    return array

def sound(array):
    return bool((array == np.arange(array.size)).all())
"""
ROUND = """
memory = tmem.Memory("16M", swap=None, faults=entry, ops=[dictbackends.DictBackend()])
array = fill(memory)
memory.evict(array)
stored = memory.stats().store_pages
same = sound(array)
array[::512] = -1
memory.evict(array)
same = same and bool((array[::512] == -1).all()) and bool((array[1::512] == np.arange(1, array.size, 512)).all())
stats, broken, pids = memory.stats(), memory.check(), processes(memory)
del array
memory.close()
alive = [os.path.exists(f"/proc/{pid}") for pid in pids]
say(same=same, loads=stats.loads, stored=stored, over=stats.overshoot_events, broken=broken, alive=alive)
"""
ORDER = """
memory = tmem.Memory("16M", swap=directory, faults=entry, ops=[dictbackends.Refuses(1000), dictbackends.Refuses(2000)])
array = fill(memory)
stats = memory.stats()
same = sound(array)
say(same=same, stored=stats.store_pages, swap_used=stats.swap_used, refused=dict(stats.refused), broken=memory.check())
"""
KILLED = """
memory = tmem.Memory("16M", swap=directory, faults=entry, ops=[dictbackends.DictBackend(), "store"])
array = fill(memory, 1 << 18)
if idle:
    same = sound(array)
    array += 0
    memory.prefetch(array)
os.kill(processes(memory)[0], 9)
os.waitpid(processes(memory)[0], 0)
if idle:
    memory.advise(array, "normal")
    array += 1  # all are resident, so no copy is needed any more
    memory.evict(array)
    other = fill(memory, 3 << 20)
    say(same=same and bool((array == np.arange(1, array.size + 1)).all()) and sound(other),
        failed=memory.stats().refused["backend_failed"], overshoot=memory.stats().overshoot_events)
else:
    say(sum=int(array.sum()))
"""
HANGING = """
backendprocess.ANSWER_SECONDS = tmem.memory.ANSWER_SECONDS = 0.2
memory = tmem.Memory("16M", swap=directory, faults=entry, ops=[dictbackends.Hangs(first)])
array = memory.empty(3 << 20, "i8")
array[:] = np.arange(array.size)
if first == 0:
    memory.evict(array)
    say(same=sound(array), failed=memory.stats().refused["backend_failed"], out=memory.stats().swap_used > 0)
else:
    memory.evict(array)
    say(sum=int(array.sum()))
"""
FORKED = """
memory = tmem.Memory("16M", swap=directory, faults=entry, ops=[dictbackends.DictBackend()])
array = fill(memory)
here = array[-1000:]
here += 1
pids = processes(memory)
read, write = os.pipe()
if os.fork() == 0:
    fresh = memory.full(3 << 20, 5, "i8")
    memory.evict(fresh)
    os.write(write, json.dumps(dict(
        here=bool((here == np.arange(array.size - 1000, array.size) + 1).all()),
        fresh=bool((fresh == 5).all()), failed=memory.stats().refused["backend_failed"],
    )).encode())
    os.close(write)
    array[0]  # which only the parent's process has
    os._exit(0)
os.close(write)
told = json.loads(os.read(read, 1000))
_, status = os.wait()
say(child=told, ended=os.WTERMSIG(status), parent=sound(array[:-1000]), broken=memory.check())
"""
CLOSED = """
memory = tmem.Memory("16M", swap=None, faults=entry, ops=[dictbackends.DictBackend()])
array = fill(memory)
os.closerange(3, 1 << 16)
say(same=sound(array))
"""
ENDS = """
memory = tmem.Memory("16M", swap=None, faults=entry, ops=[dictbackends.DictBackend(), dictbackends.Hangs(1 << 40)])
array = fill(memory)
say(pids=processes(memory))
if how == "exit":
    sys.exit(0)
if how == "fork":
    if os.fork() == 0:
        say(forked=True)
        sys.stdin.readline()
        os._exit(0)
while True:
    array[::512] += 1
"""


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _gone(pids: list[int], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(_is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def test_every_page_comes_back_from_the_process_and_none_stays_behind(child: Any, entry: str) -> None:
    ran = child(OPEN + ROUND, entry)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["same"], told["broken"], told["alive"], told["over"]) == (True, [], [False], 0)
    assert told["stored"] == (24 << 20) // 4096
    assert told["loads"] >= told["stored"]


def test_backends_are_asked_in_order_and_the_device_takes_the_rest(child: Any) -> None:
    ran = child(OPEN + ORDER, "auto")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["same"], told["stored"], told["broken"]) == (True, 3000, [])
    assert told["swap_used"] == (24 << 20) - 3000 * 4096
    assert told["refused"]["unwilling"] > 0


def test_a_process_that_dies_idle_is_no_loss(child: Any) -> None:
    ran = child(OPEN + "idle = True\n" + KILLED, "auto")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["same"], told["overshoot"]) == (True, 0)
    assert "a backend process is gone" in ran.stderr


def test_a_process_that_dies_with_pages_ends_the_guest_with_a_report_when_it_needs_one(child: Any) -> None:
    ran = child(OPEN + "idle = False\n" + KILLED, "auto")
    assert ran.returncode == -signal.SIGABRT
    assert ran.stdout == ""
    assert "tmem: fatal: a stored page is lost: the backend process that took it is gone" in ran.stderr


def test_a_process_that_hangs_is_waited_for_once_and_pages_fall_through(child: Any) -> None:
    ran = child(OPEN + "first = 0\n" + HANGING, "auto")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["same"], told["out"]) == (True, True)
    assert told["failed"] >= (24 << 20) // 4096


@pytest.mark.long
def test_a_process_that_hangs_with_pages_ends_the_guest_with_a_report(child: Any) -> None:
    ran = child(OPEN + "first = 4000\n" + HANGING, "auto")
    assert ran.returncode == -signal.SIGABRT
    assert "the backend process that took it is gone or does not answer" in ran.stderr


def test_a_forked_child_does_not_reach_the_process_and_says_so(child: Any) -> None:
    ran = child(OPEN + FORKED, "auto")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["child"]["here"], told["child"]["fresh"]) == (True, True)
    assert told["child"]["failed"] > 0
    assert (told["ended"], told["parent"], told["broken"]) == (signal.SIGABRT, True, [])
    assert "which a forked child does not have (law 15)" in ran.stderr


def test_closing_all_descriptors_is_no_loss_under_the_guard_and_a_report_without(child: Any, entry: str) -> None:
    ran = child(OPEN + CLOSED, entry)
    if cast("dict[str, bool]", _core.probe()["guarded"])[entry]:
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout) == {"same": True}
    else:
        assert ran.returncode == -signal.SIGABRT
        assert "tmem: fatal: " in ran.stderr


@pytest.mark.parametrize(
    "how", ["exit", "kill", *(pytest.param(how, marks=pytest.mark.long) for how in ("interrupt", "fork"))]
)
def test_processes_end_with_their_guest_however_it_ends(start: Any, how: str) -> None:
    with start(OPEN + f"how = {how!r}\n" + ENDS, "auto") as process:
        pids = json.loads(process.stdout.readline())["pids"]
        assert len(pids) == 2
        if how == "fork":
            process.stdout.readline()
        if how in {"kill", "fork"}:
            process.kill()
        elif how == "interrupt":
            for pid in pids:
                os.kill(pid, signal.SIGINT)
            time.sleep(0.1)
            assert all(_is_running(pid) for pid in pids), "Ctrl-C is the guest's"
            process.send_signal(signal.SIGINT)
        process.wait(60)
        assert _gone(pids)
        if how == "fork":
            process.stdin.write("\n")


def test_a_hook_whose_process_dies_goes_on_and_tells_which_page_is_lost(tmp_path: Path) -> None:
    device, backend = tmem.SwapDevice("1M", tmp_path), ProcessBackend(KeepsABuffer(), pages=100)
    page = bytes(range(256)) * 16
    with tmem.Frontswap(device, [backend], pages=100) as fs:
        assert fs.store(1, page)
        assert fs.load(1) == page
        os.kill(backend.pid, signal.SIGKILL)
        assert fs.store(2, page)
        assert (fs.stats().refused, fs.stats().device_writes) == ({"backend_failed": 1}, 1)
        assert fs.load(2) == page
        with pytest.raises(tmem.PageLostError, match="page 1: a stored page is lost: the backend process"):
            fs.load(1)
        assert backend.check() == ["law 5: 1 page(s) are lost with their backend process"]
        assert fs.store(1, page)
        assert (fs.load(1), fs.check()) == (page, [])
    backend.close()
    backend.close()
    with pytest.raises(tmem.ClosedError):
        backend.load(0, 1)


def test_a_process_does_not_wait_for_the_forked_children_of_its_guest() -> None:
    backend = ProcessBackend(DictBackend())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    backend.core.close()
    assert _gone([backend.pid])
    os.close(write)
    os.waitpid(child, 0)
    backend.close()


def test_processes_of_what_was_forgotten_are_reaped() -> None:
    memory = tmem.Memory("16M", swap=None, ops=[DictBackend()])
    process = memory._backends[0]
    assert isinstance(process, backendprocess.BackendProcess)
    del memory
    gc.collect()
    assert _gone([process.pid])
    deadline = time.monotonic() + 20
    while process in backendprocess._RUNNING:  # its threads may take a moment longer than its first
        assert time.monotonic() < deadline
        ProcessBackend(DictBackend()).close()
    assert not Path(f"/proc/{process.pid}").exists()


class Unpicklable(DictBackend):
    """Has what no process can be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.wake = lambda: None


class CannotBeMade(DictBackend):
    """Is fine here, and not there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("no number",))


def test_backends_that_no_process_can_have_are_refused_and_nothing_is_left() -> None:
    before = _descriptors()
    with pytest.raises(TypeError, match="Unpicklable cannot be pickled"):
        tmem.Memory("16M", ops=[DictBackend(), Unpicklable()])
    with pytest.raises(TypeError, match="CannotBeMade cannot be made in a process of its own: ValueError"):
        tmem.Memory("16M", ops=["store", CannotBeMade()])
    with pytest.raises(TypeError, match="name it, ops="):
        tmem.Memory("16M", ops=[tmem.PlainCopies(10)])
    with pytest.raises(TypeError, match="put this one in brackets"):
        tmem.Memory("16M", ops="store")
    with pytest.raises(TypeError, match=r"tmem\.FrontswapOps or a name, not int"):
        tmem.Memory("16M", ops=[5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="unknown backend 'zram'"):
        tmem.Memory("16M", ops=["zram"])
    with pytest.raises(tmem.SwapError):
        tmem.Memory("16M", swap="/nowhere/at/all", ops=[DictBackend()])
    assert _descriptors() == before
    assert all(one.is_over() for one in backendprocess._RUNNING)


def test_a_main_module_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {ROOT!r})\nimport tmem\nfrom tests import dictbackends\n"
        'tmem.Memory("16M", ops=[dictbackends.DictBackend()])\n',
        encoding="utf-8",
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert '`if __name__ == "__main__":`' in ran.stderr
