# SPDX-License-Identifier: Apache-2.0
"""Settings of `tmem run`: one precedence, and mistakes that name their place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tmem.errors import SizeError, TmemError
from tmem.settings import DEFAULTS, resolve, swap_of


class Machine:
    """A machine with configuration files of every kind; each says another budget."""

    def __init__(self, home: Path) -> None:
        self.root = home
        self.env = {"XDG_CONFIG_HOME": str(home / "xdg")}
        self.flags: dict[str, Any] = {}
        self.config: str | None = None

    def write(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def ram(self) -> tuple[object, str]:
        return self.all()["ram"]

    def all(self) -> dict[str, tuple[object, str]]:
        found = resolve(self.flags, self.env, self.config, str(self.root))
        return {name: (one.value, one.origin) for name, one in found.items()}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Machine(tmp_path)


def test_nothing_said_gives_the_defaults(machine: Machine) -> None:
    assert machine.all() == {name: (value, "default") for name, value in DEFAULTS.items()}


def test_each_place_comes_before_the_ones_below_it(machine: Machine) -> None:
    machine.write("etc/tmem/tmem.toml", '[run]\nram = "1G"\nfaults = "signal"\n')
    assert machine.ram() == ("1G", f"{machine.root}/etc/tmem/tmem.toml [run] ram")
    machine.write("xdg/tmem/config.toml", '[run]\nram = "2G"\n')
    assert machine.ram() == ("2G", f"{machine.root}/xdg/tmem/config.toml [run] ram")
    machine.write("work/pyproject.toml", '[project]\nname = "x"\n[tool.other]\n[tool.tmem.run]\nram = "3G"\n')
    assert machine.ram() == ("3G", "./pyproject.toml [tool.tmem.run] ram")
    machine.write("work/tmem.toml", '[run]\nram = "4G"\n')
    assert machine.ram() == ("4G", "./tmem.toml [run] ram")
    named = machine.write("named.toml", "[run]\nram = 5000000000\n")
    machine.env["TMEM_CONFIG"] = str(named)
    assert machine.ram() == (5_000_000_000, f"{named} [run] ram")
    machine.config = str(machine.write("other{0}.toml", '[run]\nram = "6G"\n'))
    assert machine.ram() == ("6G", f"{machine.config} [run] ram")
    machine.env["TMEM_RAM"] = "7G"
    assert machine.ram() == ("7G", "TMEM_RAM")
    machine.flags = {"ram": "8G", "swap": None}
    assert machine.ram() == ("8G", "--ram")
    assert machine.all()["faults"] == ("signal", f"{machine.root}/etc/tmem/tmem.toml [run] faults")


def test_home_is_where_the_users_file_is(machine: Machine) -> None:
    machine.write(".config/tmem/config.toml", "[run]\nreport = true\n")
    machine.env = {"HOME": str(machine.root)}
    assert machine.all()["report"] == (True, f"{machine.root}/.config/tmem/config.toml [run] report")


def test_an_empty_variable_says_nothing(machine: Machine) -> None:
    machine.env |= {"TMEM_RAM": "", "TMEM_CONFIG": ""}
    assert machine.ram() == ("auto", "default")


@pytest.mark.parametrize(
    ("word", "value"), [("1", True), ("TRUE", True), ("yes", True), ("on", True), ("0", False), ("No", False)]
)
def test_report_is_a_truth(machine: Machine, word: str, value: object) -> None:
    machine.env["TMEM_REPORT"] = word
    assert machine.all()["report"] == (value, "TMEM_REPORT")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("ram", "2 gb", "two ways.*allowed is a size such as '2G'"),
        ("ram", "0", "more than zero"),
        ("swap", "atuo", "DIR:SIZE"),
        ("faults", "segv", "'auto', 'signal', 'thread'"),
        ("report", "maybe", "true or false"),
    ],
)
def test_a_wrong_value_names_its_place_and_what_is_allowed(
    machine: Machine, key: str, value: str, allowed: str
) -> None:
    machine.env[f"TMEM_{key.upper()}"] = value
    with pytest.raises(TmemError, match=f"^TMEM_{key.upper()}: .*{allowed}") as caught:
        machine.all()
    assert not isinstance(caught.value, SizeError)
    del machine.env[f"TMEM_{key.upper()}"]
    machine.write("work/tmem.toml", f'[run]\n{key} = "{value}"\n')
    with pytest.raises(TmemError, match=rf"^\./tmem.toml \[run\] {key}: .*{allowed}"):
        machine.all()
    if key != "report":
        machine.flags[key] = value
        with pytest.raises(SizeError, match=f"^--{key}: .*{allowed}"):
            machine.all()


@pytest.mark.parametrize(
    "line", ["ram = true", "ram = 1.5", "ram = []", "faults = 1", "json = 1", 'json = ""', "report = 1"]
)
def test_a_value_of_a_wrong_type_is_refused(machine: Machine, line: str) -> None:
    machine.write("work/tmem.toml", f"[run]\n{line}\n")
    with pytest.raises(TmemError, match="allowed is"):
        machine.all()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("tmem.toml", "[run]\nrma = 1\n", r"unknown key run\.rma: allowed are ram, swap, faults, host, report, json"),
        ("tmem.toml", "[rnu]\n", r"unknown key rnu: allowed is run"),
        ("tmem.toml", "run = 1\n", r"run must be a table"),
        ("tmem.toml", "[run\n", r"is not TOML"),
        ("pyproject.toml", "[tool.tmem.run]\nrma = 1\n", r"unknown key tool\.tmem\.run\.rma"),
        ("pyproject.toml", "[tool.tmem]\nram = 1\n", r"unknown key tool\.tmem\.ram: allowed is tool\.tmem\.run"),
        ("pyproject.toml", "[tool]\ntmem = 1\n", r"tmem must be a table"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(machine: Machine, file: str, text: str, said: str) -> None:
    machine.write(f"work/{file}", text)
    with pytest.raises(TmemError, match=rf"^\./{file}.* ?{said}"):
        machine.all()


def test_a_mistake_that_does_not_count_is_found_too(machine: Machine) -> None:
    machine.flags["ram"] = "1G"
    machine.env["TMEM_RAM"] = "lots"
    with pytest.raises(TmemError, match="TMEM_RAM"):
        machine.all()


def test_a_project_that_says_nothing_of_tmem_is_not_looked_at(machine: Machine) -> None:
    machine.write("work/pyproject.toml", "this is no TOML")
    assert machine.ram() == ("auto", "default")
    machine.write("work/pyproject.toml", '[project]\ndependencies = ["tmem"]\n').chmod(0o666)
    assert machine.ram() == ("auto", "default")


@pytest.mark.parametrize("file", ["tmem.toml", "pyproject.toml"])
def test_a_file_that_anybody_may_write_is_refused_unless_named(machine: Machine, file: str) -> None:
    table = "run" if file == "tmem.toml" else "tool.tmem.run"
    path = machine.write(f"work/{file}", f'[{table}]\nram = "1G"\n')
    path.chmod(0o666)
    with pytest.raises(TmemError, match=rf"^\./{file} may be written by everybody.*--config \./{file}.*/dev/null"):
        machine.all()
    machine.config = "/dev/null"
    assert machine.ram() == ("auto", "default")
    machine.config = f"./{file}"
    assert machine.ram() == ("1G", f"./{file} [{table}] ram")


def test_a_file_is_read_whole_or_not_at_all(machine: Machine) -> None:
    machine.write("work/tmem.toml", '[run]\nram = "1G"\n' + "#" * (1 << 20))
    with pytest.raises(TmemError, match=r"larger than 1\.0 MiB"):
        machine.all()


@pytest.mark.root
def test_a_file_of_another_user_is_refused_unless_named(machine: Machine, need_root: None) -> None:  # noqa: ARG001
    path = machine.write("work/tmem.toml", '[run]\nram = "1G"\n')
    os.chown(path, 12345, -1)
    with pytest.raises(TmemError, match=r"belongs to another user \(12345\)"):
        machine.all()
    machine.config = "tmem.toml"
    assert machine.ram() == ("1G", "tmem.toml [run] ram")


def test_a_named_file_must_be_there(machine: Machine) -> None:
    machine.config = "missing.toml"
    with pytest.raises(TmemError, match=r"^missing\.toml: No such file"):
        machine.all()


def test_a_file_that_cannot_be_read_is_not_passed_over(machine: Machine) -> None:
    (machine.root / "work/tmem.toml").mkdir()
    with pytest.raises(TmemError, match=r"^tmem\.toml: Is a directory"):
        machine.all()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("20G", "20G"),
        (1 << 30, 1 << 30),
        ("/scratch", "/scratch"),
        ("/scratch:20G", ("/scratch", 20 << 30)),
        ("./a:1.5G", ("./a", 3 << 29)),
        ("~/a", "~/a"),
        (".", "./."),
        ("/a:b", "/a:b"),
        ("/a:2b/", "/a:2b/"),
    ],
)
def test_swap_of_a_word(text: str | int, meant: object) -> None:
    assert swap_of(text) == meant


@pytest.mark.parametrize("bad", ["scratch", "scratch:2G", "/a:2x", "", "-1", "/a:0"])
def test_swap_of_nonsense_says_what_is_allowed(bad: str) -> None:
    with pytest.raises(SizeError, match="swap"):
        swap_of(bad)
