# SPDX-License-Identifier: Apache-2.0
"""Paging gets on with other people's signals, and they with it. The scenes are in `scenes_signals.py`."""

from __future__ import annotations

import signal
from typing import Any

import pytest

NAMES = {signal.SIGBUS: "Bus error", signal.SIGSEGV: "Segmentation fault"}


@pytest.mark.parametrize(
    "scene",
    [
        "sent_signals_reach_python",
        "machine_code_handlers_use_arrays",
        "faulthandler_in_every_order",
        "alternate_stack_in_an_array",
        pytest.param("exceptions_in_the_middle_of_numpy", marks=pytest.mark.long),
        pytest.param("interrupted", marks=pytest.mark.long),
        pytest.param("python_handlers_use_arrays", marks=pytest.mark.long),
        pytest.param("alarms_among_threads", marks=pytest.mark.long),
    ],
)
def test_arrays_and_signals_do_not_disturb_each_other(run: Any, entry: str, scene: str) -> None:
    ran = run("-m", "tests.integration.kernel.stage", f"signals.{scene}", entry, "root")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")


def _long(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("scene", "number"),
    [
        ("bus_error_again", signal.SIGBUS),
        _long("segmentation_fault_after", signal.SIGSEGV),
        _long("bus_error_before", signal.SIGBUS),
        _long("bus_error_after", signal.SIGBUS),
        _long("segmentation_fault_before", signal.SIGSEGV),
        _long("sent_bus_error_with_faulthandler", signal.SIGBUS),
    ],
)
def test_a_fault_that_is_not_ours_is_reported_and_ends_the_process(
    run: Any, entry: str, scene: str, number: signal.Signals
) -> None:
    ran = run("-m", "tests.integration.kernel.stage", f"signals.{scene}", entry, "root")
    assert (ran.returncode, ran.stdout) == (-number, ""), ran.stderr
    assert ran.stderr.startswith(f"Fatal Python error: {NAMES[number]}\n")
    assert f"in {scene}\n" in ran.stderr
    assert ran.stderr.count("Fatal") == 1
    assert "tmem:" not in ran.stderr


@pytest.mark.parametrize(
    ("scene", "number"),
    [
        _long("sent_bus_error", signal.SIGBUS),
        _long("bus_error_never", signal.SIGBUS),
        _long("segmentation_fault_never", signal.SIGSEGV),
    ],
)
def test_without_a_handler_the_signal_ends_the_process(
    run: Any, entry: str, scene: str, number: signal.Signals
) -> None:
    ran = run("-m", "tests.integration.kernel.stage", f"signals.{scene}", entry, "root")
    assert (ran.returncode, ran.stdout, ran.stderr) == (-number, "", "")


@pytest.mark.root
@pytest.mark.usefixtures("need_root")
@pytest.mark.long
@pytest.mark.parametrize(
    "scene",
    [
        "sent_signals_reach_python",
        "machine_code_handlers_use_arrays",
        "interrupted",
        "alternate_stack_in_an_array",
    ],
)
def test_signals_of_a_plain_user(run: Any, entry: str, scene: str) -> None:
    ran = run("-m", "tests.integration.kernel.stage", f"signals.{scene}", entry, "nobody")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
