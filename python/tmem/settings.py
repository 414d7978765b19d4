# SPDX-License-Identifier: Apache-2.0
"""What `tmem run` is asked for, and where each setting comes from: one precedence for all of them.

Owns: the settings' names and grammar, the files, the precedence. Called by cli.run. Calls units.
A flag comes before the environment, that before the project's file (--config or TMEM_CONFIG, else ./tmem.toml, else
[tool.tmem.run] of ./pyproject.toml), that before the user's and the machine's. Each setting is looked up by itself.
Law: a file that somebody else could have put into the working directory is refused, never read and never passed over.
"""

from __future__ import annotations

import os
import stat

from tmem.errors import SizeError, TmemError
from tmem.units import format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tmem.kinds import Swap

    Value = str | int | bool | None

__all__ = ["DEFAULTS", "FAULTS", "Setting", "resolve", "swap_of"]

FAULTS = ("auto", "signal", "thread")
DEFAULTS: Mapping[str, Value] = {
    "ram": "auto",
    "swap": "auto",
    "faults": "auto",
    "host": None,
    "report": False,
    "json": None,
}
"""Every setting, with what it is when nobody says anything."""

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_ALLOWED = {
    "ram": "a size such as '2G', a share such as '50%', or 'auto'",
    "swap": "a size, a directory, 'DIR:SIZE', 'auto' or 'none'",
    "faults": "one of " + ", ".join(repr(name) for name in FAULTS),
    "host": "the path of a daemon's socket, 'auto' or 'none'",
    "report": "true or false",
    "json": "the name of a file",
}
_ALONE, _IN_PROJECT = ("run",), ("tool", "tmem", "run")
_LARGEST_FILE = 1 << 20
_WHOLE = 1 << 40


class Setting:
    """One setting: its value, and who said so (`--ram`, `TMEM_RAM`, a file with its key, `default`)."""

    __slots__ = ("origin", "value")

    def __init__(self, value: Value, origin: str) -> None:
        self.value = value
        self.origin = origin


class _Layer:
    """The settings of one place, and how a message calls each of them."""

    def __init__(self, values: Mapping[str, object], calls: str) -> None:
        self.values = values
        self.calls = calls

    def origin(self, name: str) -> str:
        return self.calls.format(name=name, upper=name.upper())


def resolve(
    flags: Mapping[str, str | bool | None], env: Mapping[str, str], config: str | None, root: str = "/"
) -> dict[str, Setting]:
    """Return every setting with its origin. `flags` has None for what was not given; `root` is where /etc is.

    Raises SizeError for a flag that is misspelt, TmemError for anything else that is, naming the place, the key and
    what is allowed there.
    """
    layers = [
        _Layer({name: value for name, value in flags.items() if value is not None}, "--{name}"),
        _Layer({name: env[key] for name in DEFAULTS if env.get(key := f"TMEM_{name.upper()}")}, "TMEM_{upper}"),
        *_files(env, config, root),
    ]
    found: dict[str, Setting] = {}
    for layer in layers:  # all are looked at, so that a mistake is not found only when it begins to count
        for name, value in layer.values.items():
            setting = Setting(_checked(name, value, layer.origin(name)), layer.origin(name))
            found.setdefault(name, setting)
    return {name: found.get(name, Setting(value, "default")) for name, value in DEFAULTS.items()}


def swap_of(value: str | int) -> Swap:
    """Return what `--swap` means: as for a Memory, and `DIR:SIZE` for both. SizeError where it means nothing.

    What stands after the last colon is a size if it begins with a digit and has no `/`.
    """
    if isinstance(value, int):
        return value
    text = value.strip()
    if not _is_path(text):
        if text not in ("auto", "none"):
            parse_size(text, what="swap")
        return text
    head, colon, tail = text.rpartition(":")
    if colon and _is_path(head) and tail[:1].isdecimal() and "/" not in tail:
        return head, parse_size(tail, what="swap")
    return text if "/" in text or text.startswith("~") else f"./{text}"


def _is_path(text: str) -> bool:
    return "/" in text or text.startswith("~") or text in (".", "..")


def _checked(name: str, value: object, origin: str) -> str | int | bool:
    """Return a value as it is meant. SizeError for a flag, TmemError for the rest, where it cannot be meant."""
    try:
        return _meant(name, value)
    except SizeError as error:
        kind = SizeError if origin.startswith("--") else TmemError
        raise kind(f"{origin}: {error}; allowed is {_ALLOWED[name]}") from None


def _meant(name: str, value: object) -> str | int | bool:
    if name == "report":
        return _truth(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SizeError(f"{name} is not {value!r}")
    if name == "ram":
        parse_size(value, whole=_WHOLE, what="ram")
    elif name == "swap":
        swap_of(value)
    elif not isinstance(value, str) or not value or (name == "faults" and value not in FAULTS):
        raise SizeError(f"{name} is not {value!r}")
    return value


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    if word not in _TRUE + _FALSE:
        raise SizeError(f"report is not {value!r}")
    return word in _TRUE


def _files(env: Mapping[str, str], config: str | None, root: str) -> list[_Layer]:
    """Return the layers of files, best first: the project's, the user's, the machine's."""
    named = config or env.get("TMEM_CONFIG") or None
    project = [_named(named)] if named else [_in_tree("tmem.toml", _ALONE)]
    if not named and project == [None]:
        project = [_in_tree("pyproject.toml", _IN_PROJECT)]
    home = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else "")
    user = [_fixed(f"{home}/tmem/config.toml")] if home.startswith("/") else []
    return [layer for layer in (*project, *user, _fixed(f"{root.rstrip('/')}/etc/tmem/tmem.toml")) if layer is not None]


def _named(path: str) -> _Layer | None:
    """Read a file that was named: whoever owns it, somebody asked for it."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise TmemError(f"{path}: {error.strerror}: name a file that can be read, or leave --config out") from None
    return _layer(path, data, _IN_PROJECT if os.path.basename(path) == "pyproject.toml" else _ALONE)


def _in_tree(path: str, keys: tuple[str, ...]) -> _Layer | None:
    """Read a file of the working directory, unless somebody else could have put it there. None for none."""
    data, info = _read(path)
    if info is None or (b"tmem" not in data and len(keys) > 1):
        return None  # no TOML reader for a project that says nothing of tmem
    layer = _layer(f"./{path}", data, keys)
    if layer is None:
        return None
    for wrong, why in (
        (info.st_mode & stat.S_IWOTH, "may be written by everybody"),
        (info.st_uid not in (0, os.geteuid()), f"belongs to another user ({info.st_uid})"),
    ):
        if wrong:
            raise TmemError(
                f"./{path} {why}, so its settings are not taken just because it is there: change that, or say that it "
                f"is meant, --config ./{path}, or that it is not, --config /dev/null"
            )
    return layer


def _fixed(path: str) -> _Layer | None:
    """Read a file of the user's or the machine's configuration; None for none."""
    data, info = _read(path)
    return _layer(path, data, _ALONE) if info is not None else None


def _read(path: str) -> tuple[bytes, os.stat_result | None]:
    """Return what a file holds and whose it is; None for one that does not exist or that no search leads to."""
    try:
        os.stat(path)
    except OSError:
        return b"", None
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_FILE + 1), os.fstat(file.fileno())
    except OSError as error:
        raise TmemError(f"{path}: {error.strerror}: it may hold settings, so make it readable or move it") from None


def _layer(path: str, data: bytes, keys: tuple[str, ...]) -> _Layer | None:
    """Return the settings below `keys`. TmemError for what is no TOML, and for a key that does not exist."""
    if len(data) > _LARGEST_FILE:
        raise TmemError(f"{path} is larger than {format_size(_LARGEST_FILE)}: name a smaller file, --config FILE")
    import tomllib  # noqa: PLC0415 - it takes as long to import as Python takes to start

    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TmemError(f"{path} is not TOML: {error}") from None
    above = _below(path, document, keys[:-1])
    table = _below(path, above, keys[-1:]) if above is not None else None
    for name in sorted(set(above or ()) - {keys[-1]}):
        raise TmemError(f"{path} has the unknown key {'.'.join((*keys[:-1], name))}: allowed is {'.'.join(keys)}")
    for name in sorted(set(table or ()) - set(DEFAULTS)):
        raise TmemError(f"{path} has the unknown key {'.'.join((*keys, name))}: allowed are {', '.join(DEFAULTS)}")
    calls = f"{path} [{'.'.join(keys)}] ".replace("{", "{{").replace("}", "}}")
    return _Layer(table, calls + "{name}") if table is not None else None


def _below(path: str, table: Mapping[str, object], keys: tuple[str, ...]) -> Mapping[str, object] | None:
    """Return the table below `keys`; None where there is none."""
    for key in keys:
        found = table.get(key, {})
        if not isinstance(found, dict):
            raise TmemError(f"{path}: {key} must be a table, [{'.'.join(keys)}]")
        if key not in table:
            return None
        table = found
    return table
