# SPDX-License-Identifier: Apache-2.0
"""What the kernel cannot serve is refused before an array depends on it, with the remedy in the text."""

from __future__ import annotations

from typing import Any

import pytest


def _play(run: Any, scene: str, entry: str, user: str) -> None:
    ran = run("-m", "tests.integration.kernel.stage", f"refusals.{scene}", entry, user)
    if ran.stdout.startswith("lacking"):
        pytest.skip(f"not here: {ran.stdout.splitlines()[0]}")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")


@pytest.mark.root
@pytest.mark.usefixtures("need_root")
@pytest.mark.parametrize("entry", ["signal", "thread"])
def test_without_userfaultfd_a_memory_is_refused(run: Any, entry: str) -> None:
    _play(run, "no_userfaultfd", entry, "nobody")


def test_without_dispatch_only_the_kernel_can_serve(run: Any, user: str) -> None:
    _play(run, "no_dispatch", "auto", user)


@pytest.mark.parametrize("scene", ["io_uring_is_open", pytest.param("linux_aio_is_open", marks=pytest.mark.long)])
def test_memory_used_without_system_calls_is_refused_by_name(run: Any, entry: str, scene: str) -> None:
    _play(run, scene, entry, "root")


@pytest.mark.root
@pytest.mark.usefixtures("need_root")
@pytest.mark.long
@pytest.mark.parametrize("scene", ["io_uring_is_open", "linux_aio_is_open"])
def test_a_plain_user_is_refused_by_name(run: Any, entry: str, scene: str) -> None:
    _play(run, scene, entry, "nobody")
