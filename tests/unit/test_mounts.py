# SPDX-License-Identifier: Apache-2.0
"""The reading of mountinfo."""

from __future__ import annotations

from pathlib import Path

from tmem.mounts import mounts


def test_mounts_reads_escapes_and_optional_fields(tmp_path: Path) -> None:
    file = tmp_path / "proc/self/mountinfo"
    file.parent.mkdir(parents=True)
    file.write_text(
        "36 35 98:0 /a\\040b /mnt/with\\040blank rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n"
        "37 35 0:30 / /run rw - tmpfs tmpfs rw,size=1k\n"
        "short - line\n"
    )
    first, second = mounts(tmp_path)
    assert (first.root, first.point, first.kind) == ("/a b", "/mnt/with blank", "ext3")
    assert {"noatime", "errors=continue"} <= first.options
    assert second.kind == "tmpfs"


def test_mounts_without_the_file_is_empty(tmp_path: Path) -> None:
    assert mounts(tmp_path) == []
