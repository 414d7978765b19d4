# SPDX-License-Identifier: Apache-2.0
"""What kind of executable a file is: made by the compiler where there is one, and by hand."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tmem.elf import inspect, refusal_of

LOADER = b"/lib64/ld-linux-x86-64.so.2"


def _compile(home: Path, *options: str) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    (home / "one.c").write_text("int main(void) { return 0; }\n")
    made = subprocess.run(
        ["gcc", "-o", str(home / "one"), str(home / "one.c"), *options], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"gcc cannot make it: {made.stderr.strip()[-100:]}")
    return home / "one"


def _elf(*, loader: bytes = LOADER, machine: int = 62, word: int = 2, sections: tuple[str, ...] = (".text",)) -> bytes:
    """Return an ELF file with one program header, which names the loader, and these sections."""
    names = b"\0".join([b"", *(name.encode() for name in sections), b""])
    strings = 64 + 56 + len(loader)
    table = strings + len(names)
    ident = b"\x7fELF" + bytes([word, 1, 1]) + bytes(9)
    count = len(sections) + 1
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, table, 0, 64, 56, 1, 64, count, count - 1)
    program = struct.pack("<IIQQQQQQ", 3 if loader else 1, 4, 120, 0, 0, len(loader), len(loader), 1)
    entries = b"".join(struct.pack("<II56x", names.index(name.encode()), 1) for name in sections)
    entries += struct.pack("<IIQQQQ24x", 0, 3, 0, 0, strings, len(names))
    return header + program + loader + names + entries


def test_dynamic_program_is_reached(tmp_path: Path) -> None:
    image = inspect(str(_compile(tmp_path)))
    assert (image.kind, image.native, image.go) == ("elf", True, False)
    assert image.loader.endswith("ld-linux-x86-64.so.2")
    assert refusal_of(image) == ""


@pytest.mark.parametrize("options", [("-static",), ("-static-pie",), ("-static", "-s")])
def test_static_program_is_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert "linked statically" in refusal_of(inspect(str(_compile(tmp_path, *options))))


@pytest.mark.parametrize("option", ["-m32", "-mx32"])
def test_program_for_another_machine_is_refused(tmp_path: Path, option: str) -> None:
    assert "not for x86-64" in refusal_of(inspect(str(_compile(tmp_path, option, "-nostdlib", "-Wl,-e,main"))))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (_elf(), ""),
        (_elf(sections=(".text", ".note.go.buildid")), "Go program"),
        (_elf(sections=(".go.buildinfo", ".text"), loader=b""), "Go program"),
        (_elf(loader=b"/lib/ld-musl-x86_64.so.1\0"), "musl"),
        (_elf(loader=b"/system/bin/linker64\0"), "loader /system/bin/linker64"),
        (_elf(loader=b""), "statically"),
        (_elf(machine=183), "x86-64"),
        (_elf(word=1), "x86-64"),
    ],
    ids=["good", "go", "static go", "musl", "bionic", "static", "arm", "32 bit"],
)
def test_refusal_names_the_reason(tmp_path: Path, made: bytes, reason: str) -> None:
    (tmp_path / "one").write_bytes(made)
    said = refusal_of(inspect(str(tmp_path / "one")))
    assert reason in said if reason else said == ""


@pytest.mark.parametrize(
    ("line", "interpreter", "argument"),
    [
        ("#!/bin/sh", "/bin/sh", ""),
        ("#! /usr/bin/env  python3 -u \nx", "/usr/bin/env", "python3 -u "),
        ("#!/bin/awk -f\n", "/bin/awk", "-f"),
        ("#!\n", "", ""),
    ],
)
def test_script_names_its_interpreter(tmp_path: Path, line: str, interpreter: str, argument: str) -> None:
    (tmp_path / "one").write_text(line)
    image = inspect(str(tmp_path / "one"))
    assert (image.kind, image.interpreter, image.argument.strip()) == ("script", interpreter, argument.strip())


def test_anything_else_is_other(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("echo hello\n")
    assert inspect(str(tmp_path / "one")).kind == "other"
    (tmp_path / "one").write_bytes(b"")
    assert inspect(str(tmp_path / "one")).kind == "other"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_file_is_an_image_or_a_value_error(tmp_path: Path, data: st.DataObject) -> None:
    made = bytearray(_elf(sections=(".text", ".data")))
    for _ in range(data.draw(st.integers(0, 8))):
        made[data.draw(st.integers(4, len(made) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "one").write_bytes(made[: data.draw(st.integers(0, len(made)))])
    with contextlib.suppress(ValueError):
        assert isinstance(refusal_of(inspect(str(tmp_path / "one"))), str)
