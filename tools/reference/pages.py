# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/reference: which names stand on which, and how they look.

Owns: the list of pages. Called by __main__. Calls source for the package, and the parsers of the command line.
A public name that is on no page is an error, so that none is forgotten.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.reference.source import Alias, Class, Field, Function, Module, exported, read

__all__ = ["PAGES", "Page", "command_page", "make_pages"]

NOTICE = "<!-- Made by `make docs` from the docstrings and signatures: change those, not this page. -->"


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its file's stem, its title, its opening, and the modules whose public names it has.

    Of `whole` packages it has all of `__all__`, under the package's own name: they are not part of `tmem` itself.
    """

    stem: str
    title: str
    opening: str
    modules: tuple[str, ...]
    whole: tuple[str, ...] = ()


PAGES = (
    Page("memory", "Memory", "Arrays under one RAM budget, made on purpose.", ("memory",)),
    Page("limit", "limit", "NumPy's own allocations under a budget, without a change to the code.", ("numpylimit",)),
    Page("steering", "Steering", "For any paged array or view of one, whoever made it.", ("steering",)),
    Page(
        "stats",
        "stats",
        "What tmem does in this process. The counters of one `Memory` are on [their own page](counters.md).",
        ("process", "census"),
    ),
    Page("counters", "Counters", "What `Memory.stats()`, `limit.stats()` and `tmem stats` show.", ("counters",)),
    Page("pools", "Pools", "Pages put and got by hand, and the answers to a put.", ("pool", "host", "outcome")),
    Page(
        "guest",
        "Guests and shared pools",
        "A connection to `tmem daemon`: pools in memory on lease, and pools that several guests share.",
        ("guest",),
    ),
    Page("cache", "Cache", "Values by key in bounded memory, or on what arrays leave of it.", ("cache",)),
    Page(
        "frontswap",
        "Frontswap",
        "The hook between paging and whoever keeps the pages.",
        ("frontswap", "ops", "backends"),
        ("testing",),
    ),
    Page("errors", "Errors and warnings", "Every message ends with the next step.", ("errors",)),
)


def make_pages(package: Path) -> dict[str, str]:
    """Return the text of each page of the package, by file name. LookupError for a public name without a page.

    Pages whose modules the package does not have are left out.
    """
    origins = {name: module for name, module in exported(package).items() if not name.startswith("_")}
    listed = {module for page in PAGES for module in page.modules}
    lost = sorted({module for module in origins.values() if module.removeprefix("tmem.") not in listed})
    if lost:
        raise LookupError(f"no page has the public names of {', '.join(lost)}: add them to PAGES in {__file__}")
    words = _words(package)
    made = {}
    for page in PAGES:
        parts = list(_parts(package, page, set(origins)))
        if parts:
            text = "\n\n".join([NOTICE, f"# {page.title}", page.opening, *parts])
            made[f"{page.stem}.md"] = "\n\n".join([text, *_glossary(text, words)]) + "\n"
    return made


def _parts(package: Path, page: Page, public: set[str]) -> Iterator[str]:
    for stem in page.modules:
        module = _module(package, stem)
        if module is not None:
            yield from _entries(module, [name for name in module.order if name in public])
    for stem in page.whole:
        home = package / stem
        for name, origin in exported(home).items() if home.is_dir() else ():
            module = read(home / f"{origin.rpartition('.')[2]}.py")
            for part in _entries(module, [name]):
                yield part.replace("tmem.", f"tmem.{stem}.", 1)


def _module(package: Path, stem: str) -> Module | None:
    path = package / f"{stem}.py"
    return read(path) if path.is_file() else None


def _entries(module: Module, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        found = module.find(name)
        if isinstance(found, Class):
            yield from _class(found)
        elif isinstance(found, Function):
            yield f"## {found.name}\n\n{_code(found.signature)}\n\n{found.text}"
        elif found.value in names:
            yield f"`tmem.{found.name}` is `tmem.{found.value}`."
        else:
            yield f"## {found.name}\n\n{_code(f'{found.name} = {found.value}')}\n\n{found.text}"


def _class(found: Class) -> Iterator[str]:
    bases = [base for base in found.bases if base not in {"Generic", "ABC", "object"}]
    kinds = f"\n\nA kind of {', '.join(f'`{base}`' for base in bases)}." if bases else ""
    yield f"## {found.name}\n\n{_code(found.signature)}\n\n{found.text}{kinds}"
    if found.fields:
        yield _fields(found.fields)
    properties = [method for method in found.methods if method.is_property]
    if properties:
        rows = [(f"`{each.name}`", f"`{each.returns}`", _cell(each.text)) for each in properties]
        yield _table(("property", "type", ""), rows)
    for method in found.methods:
        if not method.is_property:
            yield f"### {found.name}.{method.name}\n\n{_code(method.signature)}\n\n{method.text}"


def _fields(fields: tuple[Field, ...]) -> str:
    if any(each.kind for each in fields):
        rows = [(f"`{each.name}`", f"`{each.kind}`", _cell(each.text)) for each in fields]
        return _table(("field", "type", ""), rows)
    rows = [(f"`{each.name}`", f"`{each.default}`", _cell(each.text)) for each in fields]
    return _table(("member", "value", ""), rows)


def _words(package: Path) -> dict[str, Alias]:
    """Return the short names of types that signatures use."""
    modules = [read(path) for path in sorted(package.glob("*.py"))]
    return {alias.name: alias for module in modules for alias in module.aliases()}


def _glossary(text: str, words: dict[str, Alias]) -> list[str]:
    """Return the section that explains the short names in the signatures of a page, where there are any."""
    signatures = "\n".join(
        [*re.findall(r"```python\n(.*?)```", text, re.DOTALL), *re.findall(r"\| `(.*?)`(?= \|)", text)]
    )
    used: dict[str, Alias] = {}
    waiting = signatures
    while True:
        found = {name: alias for name, alias in words.items() if name not in used and _says(waiting, name)}
        if not found:
            break
        used |= found
        waiting = "\n".join(alias.value for alias in found.values())
    used = {name: alias for name, alias in used.items() if f"## {name}\n" not in text}
    if not used:
        return []
    rows = [(f"`{alias.name}`", f"`{alias.value}`", _cell(alias.text)) for alias in used.values()]
    return ["## Words in the signatures", _table(("word", "meaning", ""), sorted(rows))]


def _says(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.\"']){name}\b", text) is not None


def command_page(parser: argparse.ArgumentParser) -> str:
    """Return the page of the command line, from its parsers."""
    parts = [NOTICE, "# The command line", f"{parser.description}", _options(parser)]
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    for name, verb in verbs.choices.items():
        usage = " ".join([f"tmem {name}", *map(_usage, _shown(verb))])
        parts += [f"## tmem {name}", f"```\n{usage}\n```", f"{verb.description}", _options(verb), verb.epilog or ""]
    parts.append("Exit codes: 2 for wrong usage, 125 where tmem itself fails, 128 + n after signal n.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments worth a line; argparse has no other way to look into a parser."""
    return [
        action
        for action in parser._actions  # noqa: SLF001
        if action.dest not in {"help", "version", "verb"} and action.help != argparse.SUPPRESS
    ]


def _options(parser: argparse.ArgumentParser) -> str:
    rows = [
        (f"`{', '.join(each.option_strings) or _word(each)}`{_value(each)}", _cell(each.help or "").replace("%%", "%"))
        for each in _shown(parser)
    ]
    return _table(("argument", ""), rows) if rows else ""


def _usage(action: argparse.Action) -> str:
    word = " ".join([*action.option_strings[:1], *([_word(action)] if action.nargs != 0 else [])])
    return word if action.required and not action.option_strings else f"[{word}]"


def _value(action: argparse.Action) -> str:
    return f" `{_word(action)}`" if action.option_strings and action.nargs != 0 else ""


def _word(action: argparse.Action) -> str:
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return f"{metavar}..." if action.nargs in {"*", "+", argparse.REMAINDER} else metavar


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
