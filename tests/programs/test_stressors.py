# SPDX-License-Identifier: Apache-2.0
"""Other people's stressors of memory find nothing wrong under `tmem run --ram 64M`: stress-ng and memtester.

stress-ng fills memory by 30 methods and verifies it, and works malloc, mremap, madvise, brk, realloc of a growing
heap, and mappings in many forked processes. Each is bounded by operations or by seconds, and must end by itself with
exit 0, having done some of its work, and without a word of a failure. (What mmapfork maps is shared memory, which is
the kernel's: no process of it has paged memory.) memtester locks its memory: with 256 MB of it
and a budget of 64 MB it either has its locks refused with the reason, or passes on as much as it could lock.

Needs the packages stress-ng and memtester; what is missing skips its own test and names the package.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.programs.tmemrun import Under
from tools.programs.launch import Job

pytestmark = [pytest.mark.programs, pytest.mark.timeout(300)]

SECONDS = 200.0

STRESSORS = {
    "vm": "--vm 2 --vm-bytes 512M --vm-method all --verify --timeout 60s",
    "malloc": "--malloc 2 --malloc-bytes 1M --malloc-max 400 --malloc-touch --malloc-ops 20000 --verify --timeout 15s",
    "mremap": "--mremap 2 --mremap-bytes 128M --mremap-ops 500 --verify --timeout 15s",
    "madvise": "--madvise 2 --madvise-ops 500 --timeout 15s",
    "mmapfork": "--mmapfork 1 --mmapfork-ops 2 --timeout 15s",
    "brk": "--brk 2 --brk-ops 60000 --timeout 15s",
    "bigheap": "--bigheap 1 --bigheap-growth 1M --bigheap-ops 400 --verify --timeout 15s",
}
# These have more in use at once than the budget, and so pages must have gone out. The others give back at once what
# they map, or map files.
PAST_BUDGET = {"vm", "malloc", "bigheap"}
_DONE = r"metrc: \[\d+\] {} +(\d+) "


def _need(executable: str) -> None:
    if shutil.which(executable) is None:
        pytest.skip(f"no {executable}: install the package {executable}")


@pytest.mark.parametrize("stressor", STRESSORS)
def test_a_stressor_finds_nothing_wrong(under: Under, tmp_path: Path, stressor: str) -> None:
    _need("stress-ng")
    options = STRESSORS[stressor].split()
    # --oomable: one that the kernel kills ends, and does not begin anew.
    job = Job(["stress-ng", *options, "--oomable", "--metrics-brief", "--log-file", "said"])
    ran, told = under(job, tmp_path, seconds=SECONDS)
    said = (tmp_path / "said").read_text(encoding="utf-8", errors="replace")
    assert not ran.late, said
    assert ran.code == 0, said + ran.errors
    assert "successful run completed" in said
    assert not re.search(r"\bfail(ed)?:|SIGSEGV|SIGBUS|segmentation|bus error|OOM|killed", said), said
    done = re.search(_DONE.format(stressor), said)
    assert done is not None, said
    assert int(done[1]) > 0, said
    if stressor in PAST_BUDGET:
        assert told["evictions"] > 0, told


def test_memtester_passes_or_is_refused_its_locks(under: Under, tmp_path: Path) -> None:
    _need("memtester")
    job = Job(
        ["sh", "-c", "exec memtester 256M 1 > said 2>&1"],
        environment={"MEMTESTER_TEST_MASK": "0x3f"},  # six of its seventeen patterns
    )
    ran, told = under(job, tmp_path, seconds=SECONDS)
    said = (tmp_path / "said").read_text(encoding="utf-8", errors="replace")
    assert not ran.late, said[-2000:]
    assert "FAILURE" not in said
    if ran.code == 0:
        assert "Done." in said
        assert len(re.findall(r"ok$", said, re.MULTILINE)) >= 6
    else:
        assert ran.code == 1, said[-2000:]  # neither a stuck address (2) nor wrong bytes (4)
        assert "mlock" in said
        assert any("mlock" in name for name in told["refusals"]), told
