# SPDX-License-Identifier: Apache-2.0
"""The findings, on machines that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tmem.doctor import Finding, Probe, Report, examine
from tmem.errors import TmemError

GOOD: Probe = {
    "page_size": 4096,
    "kernel": "6.12.0",
    "uffd_full": True,
    "uffd_user": True,
    "uffd_device": True,
    "move": True,
    "sigbus": True,
    "dispatch": True,
    "unprivileged_sysctl": 0,
    "entries": {"signal": "", "thread": ""},
    "guarded": {"signal": True, "thread": False},
}
NOTHING: dict[str, Any] = {
    "uffd_full": False,
    "uffd_user": False,
    "uffd_device": False,
    "entries": {"signal": "userfaultfd is not permitted", "thread": "userfaultfd is not permitted"},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tmem.launch.preload_object", lambda: "/lib/_preload.so")
    for path, text in (
        ("proc/meminfo", "MemTotal: 8388608 kB\n"),
        ("proc/self/mountinfo", ""),
        ("proc/self/status", "Seccomp:\t0\n"),
        ("proc/sys/vm/max_map_count", "65530\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("dev/userfaultfd", ""),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def _examine(root: Path, **changes: Any) -> Report:
    return examine(root, GOOD | changes)  # type: ignore[arg-type]


def _finding(report: Report, name: str) -> Finding:
    return next(finding for finding in report.findings if finding.name == name)


def test_examine_of_a_good_machine_finds_nothing_wrong(root: Path) -> None:
    report = _examine(root)
    assert report.entry == "signal"
    assert [finding for finding in report.findings if not finding.ok and finding.name != "swap"] == []


def test_examine_without_userfaultfd_names_the_remedy(root: Path) -> None:
    report = _examine(root, **NOTHING)
    assert report.entry == ""
    finding = _finding(report, "userfaultfd")
    assert not finding.ok
    assert finding.needed
    assert "chmod 666 /dev/userfaultfd" in finding.remedy
    assert "sysctl vm.unprivileged_userfaultfd=1" in finding.remedy


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv", "proc/1/cgroup"])
def test_examine_in_a_container_names_the_flag(root: Path, mark: str) -> None:
    (root / mark).parent.mkdir(parents=True, exist_ok=True)
    (root / mark).write_text("0::/kubepods/pod1\n")
    (root / "proc/self/status").write_text("Name:\tx\nSeccomp:\t2\n")
    report = _examine(root, **NOTHING)
    assert "docker run --device /dev/userfaultfd" in _finding(report, "userfaultfd").remedy
    assert not _finding(report, "seccomp").ok


def test_examine_for_a_plain_user_says_guarded(root: Path) -> None:
    report = _examine(root, uffd_full=False, uffd_device=False, guarded={"signal": True, "thread": True})
    assert report.entry == "signal"
    assert "user mode only" in _finding(report, "userfaultfd").what
    assert "may not open" in _finding(report, "device").what
    assert "guarded" in _finding(report, "entry thread").what


def test_examine_takes_the_entry_that_works(root: Path) -> None:
    report = _examine(root, dispatch=False, entries={"signal": "could not be guarded", "thread": ""})
    assert report.entry == "thread"
    assert not _finding(report, "guard").ok
    assert not _finding(report, "entry signal").needed


def test_examine_of_an_old_kernel_names_the_version(root: Path) -> None:
    assert "6.8" in _finding(_examine(root, move=False), "kernel").remedy


def test_examine_of_few_mappings_names_the_sysctl(root: Path) -> None:
    (root / "proc/sys/vm/max_map_count").write_text("1024\n")
    assert "sysctl vm.max_map_count" in _finding(_examine(root), "mappings").remedy


def test_examine_of_an_empty_tree_still_answers(tmp_path: Path) -> None:
    report = _examine(tmp_path)
    assert report.entry == "signal"
    assert not _finding(report, "memory").ok


def test_examine_gives_each_fault_a_remedy(root: Path) -> None:
    for finding in _examine(root, **NOTHING).findings:
        assert finding.ok or finding.remedy


def test_examine_says_which_entry_a_run_uses(root: Path) -> None:
    assert _examine(root).run_entry == "thread"
    assert "the kernel serves system calls" in _finding(_examine(root), "tmem run").what
    guarded = _examine(root, guarded={"signal": True, "thread": True})
    assert guarded.run_entry == "signal"
    assert "are guarded before they are made" in _finding(guarded, "tmem run").what
    refused = _examine(root, **NOTHING)
    assert refused.run_entry == ""
    assert not _finding(refused, "tmem run").ok


def test_examine_without_the_preload_object_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise TmemError("the preload object is missing: install tmem again")

    monkeypatch.setattr("tmem.launch.preload_object", missing)
    report = _examine(root)
    assert (report.entry, report.run_entry) == ("signal", "")
    assert _finding(report, "preload").remedy == "install tmem again"
