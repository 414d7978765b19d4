# SPDX-License-Identifier: Apache-2.0
"""The configuration: its defaults, its bounds, and the files that come with the package."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from tmem.daemon import config as configs
from tmem.daemon.config import FILE, Config, ConfigError, Limits, Terms, load, parse
from tmem.limits import Allowance
from tmem.settings import resolve

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "packaging/daemon.toml"
UNIT = ROOT / "packaging/tmem.service"
MIB = 1 << 20


def test_the_example_is_the_defaults() -> None:
    assert load(str(EXAMPLE), {}) == Config()


def test_the_file_is_not_in_the_way_of_tmem_run(tmp_path: Path) -> None:
    copy = tmp_path / FILE.lstrip("/")
    copy.parent.mkdir(parents=True)
    shutil.copy(EXAMPLE, copy)
    assert resolve({}, {}, None, root=str(tmp_path))["ram"].origin == "default"


def test_the_example_names_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for name in (
        *Config.__struct_fields__,
        *Limits.__struct_fields__,
        *("weight", "cap", "reservation", "user", "uid"),
    ):
        assert re.search(rf"^#? ?\[*{name}\b", text, re.MULTILINE), name


def test_what_the_example_shows_and_leaves_out_is_right_too() -> None:
    shown = re.sub(r"^# (?=\[\[|[a-z_]+ = )", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = re.sub(r"^user = .*$", 'user = "root"', shown, flags=re.MULTILINE)
    config = parse(shown)
    assert config.guest
    assert config.terms(0, "training") != Terms()


@pytest.mark.parametrize(
    "text",
    [
        "capacty = 1", "[limits]\nguest = 5", "[[guest]]\nname = 'x'\nwieght = 2",  # misspelt
        "policy = 'best'", "extent = '3k'", "extent = '128M'", "extent = '1.5M'", "capacity = '0'", "capacity = '1M'",
        "capacity = '900T'", "report_ms = 5", "metrics = 70000", "[limits]\nguests = 0", "[limits]\nqueue = 1",
        "[[guest]]\nweight = 2", "[[guest]]\nname = 'x'\nweight = -1", "[[guest]]\nuser = 'nobody-of-this-name'",
        "[[guest]]\nname = 'x'\ncap = 'much'", "socket = 5", "allow_overflow_uid = 1", "not toml",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_an_error_that_names_the_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"here\.toml"):
        parse(text, "here.toml")


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tmem.toml"
    file.write_text('capacity = "64M"\npolicy = "fixed"\n')
    config = load(str(file), {"capacity": "128M"})
    assert (config.capacity_bytes, config.policy) == (128 * MIB, "fixed")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path / "none.toml"), {})


def test_capacity_is_whole_extents() -> None:
    assert parse("capacity = '67M'\nextent = '4M'").capacity_bytes == 64 * MIB


def test_the_first_rule_that_fits_counts() -> None:
    config = parse(
        """
capacity = "1G"
[[guest]]
uid = 7
name = "train*"
weight = 5
[[guest]]
uid = 7
cap = "50%"
[[guest]]
user = "root"
reservation = "64M"
"""
    )
    assert config.terms(7, "training") == Terms(weight=5)
    assert config.terms(7, "other") == Terms(cap=512 * MIB)
    assert config.terms(0, "training") == Terms(reservation=64 * MIB)
    assert config.terms(8, "training") == Terms()


def test_a_reload_changes_what_can_change_and_names_the_rest() -> None:
    old = parse('capacity = "64M"\nsocket = "/a"')
    new = parse('capacity = "128M"\nsocket = "/b"\nextent = "8M"\npolicy = "fixed"')
    config, stays = old.reloaded(new)
    assert stays == ["socket", "extent"]
    assert config == msgspec.structs.replace(old, capacity="128M", policy="fixed")


def test_the_unit_has_what_the_daemon_relies_on() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[method-assign,assignment] # the keys of a unit have capitals
    unit.read(UNIT, encoding="utf-8")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["RuntimeDirectory"] == "tmem"
    assert service["StateDirectory"] == "tmem"
    assert service["OOMScoreAdjust"] == "-900"
    assert int(service["WatchdogSec"]) > 1
    assert "LimitNOFILE" in service
    assert "tmem daemon" in service["ExecStart"]
    assert service["ExecReload"].split()[-2:] == ["-HUP", "$MAINPID"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    copy = tmp_path / "tmem.service"
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    env = os.environ | {"SYSTEMD_LOG_LEVEL": "notice"}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, env=env, check=False
    )
    mine = [line for line in done.stderr.splitlines() if "tmem" in line]
    assert mine == []


def test_whose_fault_it_is_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "FILE", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"^the flags: extent"):
        load(None, {"extent": "3K"})
    (tmp_path / "none.toml").write_text("x = " + "[" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"none\.toml is not TOML"):
        load(None, {})


def test_a_guest_comes_in_also_when_the_capacity_would_not_be_allowed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse('capacity = "64M"\n[[guest]]\nuid = 7\ncap = "50%"\n')
    monkeypatch.setattr(configs, "allowance", lambda: Allowance(32 * MIB, "a cgroup that was made smaller"))
    assert config.terms(7, "any", 64 * MIB) == Terms(cap=32 * MIB)
