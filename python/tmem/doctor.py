# SPDX-License-Identifier: Apache-2.0
"""What this machine permits, which fault entry will be used, and what to change.

Owns: the findings and their remedies. Called by cli. Calls the native probe, launch, limits, swapdir; changes
nothing.
Files are read below `root`, and the probe can be given, so that a test shows any machine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from tmem import _core, launch
from tmem.errors import KernelUnsupported, SwapError, TmemError
from tmem.limits import allowance
from tmem.memory import MINIMUM_RAM
from tmem.mounts import mounts
from tmem.swapdir import candidates, plan_swap, refusal_of
from tmem.units import AUTO_PERCENT, format_size

__all__ = ["Finding", "Probe", "Report", "examine"]

ENOUGH_MAPS = 65_530
_DEVICE = "dev/userfaultfd"
_CONTAINER_MARKS = (".dockerenv", "run/.containerenv")
_CONTAINER_GROUPS = ("docker", "kubepods", "containerd", "libpod", "lxc")


class Probe(TypedDict):
    """What the native probe found out by trying."""

    page_size: int
    kernel: str
    uffd_full: bool
    uffd_user: bool
    uffd_device: bool
    move: bool
    sigbus: bool
    dispatch: bool
    unprivileged_sysctl: int
    entries: Mapping[str, str]  # entry: why it cannot be used, or nothing
    guarded: Mapping[str, bool]  # entry: whether its system calls need the guard


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `needed`: nothing works without it; otherwise it costs speed, room or comfort."""

    name: str
    ok: bool
    what: str
    remedy: str = ""
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and the entries that `faults="auto"` and `tmem run` use; the empty text where there is none."""

    entry: str
    findings: tuple[Finding, ...]
    run_entry: str = ""


def examine(root: Path = Path("/"), probe: Probe | None = None) -> Report:
    """Look at everything and return it; a file that is missing is a finding, never an exception."""
    if probe is None:
        probe = cast("Probe", _core.probe())
    findings = (
        _kernel(probe),
        _descriptor(root, probe),
        _device(root, probe),
        *(_entry(name, probe) for name in probe["entries"]),
        _dispatch(probe),
        _seccomp(root, probe),
        _memory(root),
        _swap(),
        _maps(root),
        _huge_pages(root),
        _run(probe),
        _preload(),
    )
    return Report(_chosen(probe), findings, _run_entry(probe))


def _chosen(probe: Probe) -> str:
    return next((name for name in ("signal", "thread") if probe["entries"].get(name, "missing") == ""), "")


def _kernel(probe: Probe) -> Finding:
    what = f"Linux {probe['kernel']}, pages of {probe['page_size']} bytes"
    lacks = [
        text for text, there in (("UFFDIO_MOVE", probe["move"]), ("UFFD_FEATURE_SIGBUS", probe["sigbus"])) if not there
    ]
    if lacks and (probe["uffd_full"] or probe["uffd_user"] or probe["uffd_device"]):
        return Finding("kernel", ok=False, what=f"{what}; without {', '.join(lacks)}", remedy="use Linux 6.8 or newer")
    return Finding("kernel", ok=True, what=what)


def _descriptor(root: Path, probe: Probe) -> Finding:
    sysctl = probe["unprivileged_sysctl"]
    setting = "missing" if sysctl < 0 else str(sysctl)
    remedy = "as root: sysctl vm.unprivileged_userfaultfd=1, or allow this user to open /dev/userfaultfd"
    if probe["uffd_full"] or probe["uffd_device"]:
        way = "the system call" if probe["uffd_full"] else "/dev/userfaultfd"
        what = f"userfaultfd through {way}, faults inside system calls included (vm.unprivileged_userfaultfd={setting})"
        return Finding("userfaultfd", ok=True, what=what, needed=True)
    if probe["uffd_user"]:
        what = f"userfaultfd for faults in user mode only (vm.unprivileged_userfaultfd={setting}): calls are guarded"
        return Finding("userfaultfd", ok=True, what=what, remedy=remedy, needed=True)
    return Finding("userfaultfd", ok=False, what="userfaultfd is refused", remedy=_opening(root), needed=True)


def _opening(root: Path) -> str:
    """Return what opens userfaultfd to a process that has none of it."""
    if _contained(root):
        return "start the container with: docker run --device /dev/userfaultfd (its seccomp profile refuses the call)"
    return "as root: chmod 666 /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1; Linux 6.8 or newer is needed"


def _contained(root: Path) -> bool:
    if any((root / mark).exists() for mark in _CONTAINER_MARKS):
        return True
    return any(word in _text(root / "proc/1/cgroup") for word in _CONTAINER_GROUPS)


def _device(root: Path, probe: Probe) -> Finding:
    path = root / _DEVICE
    try:
        info = path.stat()
    except OSError:
        remedy = _opening(root) if _contained(root) else "Linux 6.1 or newer has it; without it the sysctl decides"
        return Finding("device", ok=probe["uffd_full"], what="no /dev/userfaultfd", remedy=remedy)
    what = f"/dev/userfaultfd, mode {stat.S_IMODE(info.st_mode):04o}, owner {info.st_uid}:{info.st_gid}"
    if probe["uffd_device"]:
        return Finding("device", ok=True, what=what)
    remedy = 'as root: chmod 666 /dev/userfaultfd; a udev rule keeps it so: KERNEL=="userfaultfd", MODE="0666"'
    return Finding("device", ok=False, what=f"{what}: this user may not open it", remedy=remedy)


def _entry(name: str, probe: Probe) -> Finding:
    reason = probe["entries"][name]
    guard = "guarded" if probe["guarded"].get(name) else "no guard needed"
    if not reason:
        used = ", used by faults='auto'" if name == _chosen(probe) else ""
        return Finding(f"entry {name}", ok=True, what=f"usable, {guard}{used}")
    needed = not _chosen(probe)
    return Finding(f"entry {name}", ok=False, what=reason, remedy="see userfaultfd above", needed=needed)


def _dispatch(probe: Probe) -> Finding:
    if probe["dispatch"]:
        return Finding("guard", ok=True, what="Syscall User Dispatch: system calls on paged memory can be guarded")
    remedy = "use Linux 5.11 or newer on x86-64, or give full userfaultfd so that the thread entry needs no guard"
    return Finding("guard", ok=False, what="no Syscall User Dispatch", remedy=remedy)


def _seccomp(root: Path, probe: Probe) -> Finding:
    line = next((line for line in _text(root / "proc/self/status").splitlines() if line.startswith("Seccomp:")), "")
    if line.split()[-1:] != ["2"]:
        return Finding("seccomp", ok=True, what="no filter")
    if probe["uffd_full"] or probe["uffd_user"] or probe["uffd_device"]:
        return Finding("seccomp", ok=True, what="a filter, which lets userfaultfd pass")
    return Finding("seccomp", ok=False, what="a filter stands before the system calls", remedy=_opening(root))


def _memory(root: Path) -> Finding:
    try:
        allowed = allowance(root)
    except OSError as error:
        return Finding("memory", ok=False, what=f"unknown: {error}", remedy="mount /proc, or give ram in bytes")
    auto = allowed.count * AUTO_PERCENT // 100
    what = f"{format_size(allowed.count)} allowed by {allowed.source}; ram='auto' is {format_size(auto)}"
    if allowed.count < 2 * MINIMUM_RAM:
        remedy = f"the smallest budget is {format_size(MINIMUM_RAM)}: raise the limit"
        return Finding("memory", ok=False, what=what, remedy=remedy)
    return Finding("memory", ok=True, what=what)


def _swap() -> Finding:
    remedy = "set TMPDIR to a directory on a disk, or name one: swap=('/dir', '20G')"
    try:
        plan = plan_swap("auto", allowance().count)
    except (SwapError, OSError) as error:
        return Finding("swap", ok=False, what=str(error), remedy=remedy)
    if plan.directory is None:
        table = mounts()
        tried = "; ".join(f"{path}: {refusal_of(path, table)}" for path in candidates())
        return Finding("swap", ok=False, what=f"swap='auto' finds no directory ({tried})", remedy=remedy)
    return Finding("swap", ok=True, what=f"swap='auto' uses {plan.directory}, up to {format_size(plan.count)}")


def _maps(root: Path) -> Finding:
    text = _text(root / "proc/sys/vm/max_map_count").strip()
    if not text.isdecimal():
        return Finding("mappings", ok=True, what="vm.max_map_count is unknown")
    what = f"vm.max_map_count={text}"
    enough = int(text) >= ENOUGH_MAPS
    return Finding("mappings", enough, what, "" if enough else f"as root: sysctl vm.max_map_count={ENOUGH_MAPS}")


def _run_entry(probe: Probe) -> str:
    try:
        launch.preload_object()
        return launch.entry_for("auto", probe)
    except TmemError:
        return ""


def _run(probe: Probe) -> Finding:
    try:
        entry = launch.entry_for("auto", probe)
    except KernelUnsupported:
        return Finding(
            "tmem run", ok=False, what="refuses every program: no fault entry", remedy="see userfaultfd above"
        )
    if not probe["guarded"][entry]:
        return Finding(
            "tmem run", ok=True, what=f"uses the {entry} entry; the kernel serves system calls on paged memory"
        )
    what = f"uses the {entry} entry; system calls on paged memory are guarded before they are made"
    return Finding(
        "tmem run", ok=True, what=what, remedy="allow this user to open /dev/userfaultfd: no guard is needed then"
    )


def _preload() -> Finding:
    """Say whether programs can be reached: the preload object, and the C library whose entries it patches."""
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION")
    except (OSError, ValueError):
        library = None
    if not library:
        remedy = "use a distribution with the GNU C library, not musl"
        return Finding(
            "preload", ok=False, what="the C library is not GNU's: programs cannot be reached", remedy=remedy
        )
    try:
        path = launch.preload_object()
    except TmemError as error:
        what, _, remedy = str(error).rpartition(": ")
        return Finding("preload", ok=False, what=what, remedy=remedy)
    out = "out of reach: static, musl, Go, setuid, setgid and file-capability programs"
    return Finding("preload", ok=True, what=f"{path}, for the memory calls of {library}; {out}")


def _huge_pages(root: Path) -> Finding:
    text = _text(root / "sys/kernel/mm/transparent_hugepage/enabled").strip()
    if "[never]" in text or not text:
        remedy = "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        what = "off: arrays below the budget are slower than they could be"
        return Finding("huge pages", ok=False, what=what, remedy=remedy)
    return Finding("huge pages", ok=True, what=text)


def _text(path: Path) -> str:
    """Return what the file holds, nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
