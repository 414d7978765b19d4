# SPDX-License-Identifier: Apache-2.0
"""Law 16: a system call on paged memory gives what it gives on plain memory, or is refused before it starts.

The cases are in `cases_*.py`; `worker.py` runs them in one interpreter for each way that faults can come.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

SMALL = "files,sockets,events,raw,code,heap,async"
LARGE = {"signal": "large.readinto,large.pipe_written", "thread": "large.readinto"}
# Each value of each of the three meets each value of the others somewhere in the default run.
DEFAULT = {
    ("signal", "root", "main"),
    ("signal", "nobody", "other"),
    ("thread", "root", "other"),
    ("thread", "nobody", "main"),
}


def _ways() -> list[Any]:
    ways = []
    for entry in ("signal", "thread"):
        for user in ("root", "nobody"):
            for thread in ("main", "other"):
                marks = [pytest.mark.root] if user == "nobody" else []
                if (entry, user, thread) not in DEFAULT:
                    marks.append(pytest.mark.long)
                ways.append(pytest.param(entry, user, thread, marks=marks, id=f"{entry}-{user}-{thread}"))
    return ways


WAYS = pytest.mark.parametrize(("entry", "user", "thread"), _ways(), indirect=["entry", "user"])


def _judge(run: Any, modules: str, *way: str) -> None:
    ran = run("-m", "tests.integration.kernel.worker", modules, *way)
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    if told and "refusal" in told[-1]:
        assert "userfaultfd" in told[-1]["refusal"]
        pytest.skip(f"refused with its remedy: {told[-1]['refusal']}")
    cases = [line for line in told if "case" in line]
    bad = [f"{c['case']}: {c['verdict']}: {c['detail']}" for c in cases if c["verdict"] in ("wrong", "error")]
    last = ran.stderr.rpartition("begins:")[2]
    assert not bad, "\n".join([f"{len(bad)} of {len(cases)} cases are not as on plain memory", *bad])
    assert ran.returncode == 0, f"ended by {ran.returncode} in the case {last}"
    if refused := {c["case"] for c in cases if c["verdict"] == "refused"}:
        assert told[-1]["guarded"]
        assert refused == {"async.linux_aio", "async.io_uring"}
        assert "was refused with ENOSYS" in ran.stderr
        assert "/dev/userfaultfd" in ran.stderr
    if lacking := [f"{c['case']} ({c['detail']})" for c in cases if c["verdict"] == "skipped"]:
        pytest.skip("all others are as on plain memory; not here: " + "; ".join(lacking))


@WAYS
def test_calls_give_what_they_give_on_plain_memory(run: Any, entry: str, user: str, thread: str) -> None:
    _judge(run, SMALL, entry, user, thread)


@pytest.mark.parametrize("entry", ["signal", "thread"], indirect=True)
def test_one_call_of_four_budgets(run: Any, entry: str) -> None:
    _judge(run, LARGE[entry], entry, "root", "main")


@pytest.mark.long
@WAYS
def test_every_call_of_four_budgets(run: Any, entry: str, user: str, thread: str) -> None:
    _judge(run, "large", entry, user, thread)


@pytest.mark.parametrize("user", ["nobody"], indirect=True)
@pytest.mark.parametrize("entry", ["signal", "thread"], indirect=True)
def test_no_reference_to_a_page_outlives_a_guarded_call(run: Any, entry: str, user: str) -> None:
    _judge(run, "references", entry, user, "main")


@pytest.mark.usefixtures("need_root")
@pytest.mark.parametrize("entry", ["thread"], indirect=True)
@pytest.mark.xfail(
    strict=True, reason="where the kernel serves faults, nothing sees the call, and it takes a reference that is no pin"
)
def test_no_reference_to_a_page_outlives_an_unguarded_call(run: Any, entry: str) -> None:
    _judge(run, "references", entry, "root", "main")


@WAYS
def test_a_program_named_in_paged_memory_starts(run: Any, entry: str, user: str, thread: str) -> None:
    _judge(run, "borrowed", entry, user, thread)
