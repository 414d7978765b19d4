# SPDX-License-Identifier: Apache-2.0
"""What the package's source says of its public names, read without importing any of it.

Owns: the reading of modules with `ast`, and of the comments beside fields with `tokenize`. Called by pages.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

__all__ = ["Alias", "Class", "Field", "Function", "Module", "exported", "read"]

_LONGEST = 100
_SHOWN_DECORATORS = {"abstractmethod", "classmethod", "contextmanager", "staticmethod"}


@dataclass(frozen=True, slots=True)
class Function:
    """A function or method: its signature as shown, and its docstring."""

    name: str
    signature: str
    text: str
    is_property: bool = False
    returns: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a dataclass or a member of an enumeration, with the comment beside it."""

    name: str
    kind: str
    default: str
    text: str


@dataclass(frozen=True, slots=True)
class Class:
    """A class: how it is made, what it derives from, its docstring, fields and public methods."""

    name: str
    signature: str
    bases: tuple[str, ...]
    text: str
    fields: tuple[Field, ...] = ()
    methods: tuple[Function, ...] = ()


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name of something, or a type's short name; the text is the docstring that follows it."""

    name: str
    value: str
    text: str


@dataclass
class Module:
    """One source file."""

    path: Path
    source: str
    tree: ast.Module = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.source)

    @cached_property
    def comments(self) -> dict[int, str]:
        """The comment at the end of each line that has one, without linters' marks."""
        found = {}
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:")):
                found[token.start[0]] = token.string.removeprefix("#").strip()
        return found

    @cached_property
    def variables(self) -> dict[str, str]:
        """What stands for each private type variable in a signature: its bound, or its name without the underscore."""
        found = {}
        for name, value in _assignments(self.tree):
            if isinstance(value, ast.Call) and _name(value.func) in {"TypeVar", "ParamSpec"}:
                bound = next((item.value for item in value.keywords if item.arg == "bound"), None)
                found[name] = ast.unparse(bound) if bound is not None else name.lstrip("_")
        return found

    @property
    def public(self) -> list[str]:
        """`__all__`, in the order in which the source defines the names."""
        listed = next(value for name, value in _assignments(self.tree) if name == "__all__")
        names = set(ast.literal_eval(listed))
        return [name for name in self.order if name in names]

    @property
    def order(self) -> list[str]:
        """Every name that the module defines at its top, in order."""
        found = []
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.append(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                found += [name for name, _ in _assignments(ast.Module([node], []))]
        return list(dict.fromkeys(found))

    def find(self, name: str) -> Class | Function | Alias:
        """Return what the module defines as `name`. KeyError where it does not."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self._class(node)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return self._function(node, f"tmem.{name}")
        return self._alias(name)

    def aliases(self) -> list[Alias]:
        """Return the short names of types that the module defines."""
        named = [name for name in self.order if re.fullmatch(r"[A-Z][a-z]\w*", name)]
        return [found for found in map(self.find, named) if isinstance(found, Alias)]

    def _alias(self, name: str) -> Alias:
        for node, after in zip(self.tree.body, [*self.tree.body[1:], None], strict=True):
            for found, value in _assignments(ast.Module([node], [])):
                if found == name:
                    return Alias(name, self._shown(value), _text_of(after))
        raise KeyError(f"{self.path.name} does not define {name}")

    def _class(self, node: ast.ClassDef) -> Class:
        methods: list[Function] = []
        fields, signature = [], f"class tmem.{node.name}"
        bases = tuple(self._shown(base) for base in node.bases)
        for item in node.body:
            if isinstance(item, ast.AnnAssign | ast.Assign):
                fields += self._fields(item)
            elif isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                if item.name == "__init__":
                    signature = self._signature(item, f"class tmem.{node.name}", bound=True, result=False)
                elif not item.name.startswith("_") or (item.name.startswith("__") and ast.get_docstring(item)):
                    _add(methods, self._function(item, item.name, bound=True), overloaded="overload" in _names(item))
        return Class(node.name, signature, bases, ast.get_docstring(node) or "", tuple(fields), tuple(methods))

    def _fields(self, node: ast.AnnAssign | ast.Assign) -> list[Field]:
        kind = self._shown(node.annotation) if isinstance(node, ast.AnnAssign) else ""
        return [
            Field(
                name,
                kind,
                self._shown(node.value) if node.value is not None else "",
                self.comments.get(node.end_lineno or node.lineno, ""),
            )
            for name, _ in _assignments(ast.Module([node], []), values=False)
            if not name.startswith("_")
        ]

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, *, bound: bool = False) -> Function:
        decorators = _names(node)
        static = "staticmethod" in decorators
        signature = self._signature(node, name, bound=bound and not static)
        shown = [f"@{each}" for each in decorators if each in _SHOWN_DECORATORS]
        returns = self._shown(node.returns) if node.returns is not None else ""
        text = ast.get_docstring(node) or ""
        return Function(node.name, "\n".join([*shown, signature]), text, "property" in decorators, returns)

    def _signature(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, *, bound: bool, result: bool = True
    ) -> str:
        parts = self._arguments(node.args)[1 if bound else 0 :]
        if parts and parts[0] == "/":
            parts = parts[1:]
        after = f" -> {self._shown(node.returns)}" if result and node.returns is not None else ""
        before = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
        line = f"{before}{name}({', '.join(parts)}){after}"
        if len(line) <= _LONGEST:
            return line
        return f"{before}{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){after}"

    def _arguments(self, args: ast.arguments) -> list[str]:
        plain = [*args.posonlyargs, *args.args]
        defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
        parts = [self._argument(arg, default) for arg, default in zip(plain, defaults, strict=True)]
        if args.posonlyargs:
            parts.insert(len(args.posonlyargs), "/")
        if args.vararg:
            parts.append("*" + self._argument(args.vararg, None))
        elif args.kwonlyargs:
            parts.append("*")
        parts += [self._argument(arg, value) for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
        if args.kwarg:
            parts.append("**" + self._argument(args.kwarg, None))
        return parts

    def _argument(self, arg: ast.arg, default: ast.expr | None) -> str:
        kind = f": {self._shown(arg.annotation)}" if arg.annotation is not None else ""
        value = "" if default is None else f" = {self._shown(default)}" if kind else f"={self._shown(default)}"
        return f"{arg.arg}{kind}{value}"

    def _shown(self, node: ast.expr | None) -> str:
        """Return an expression as the source has it, on one line, with private type variables replaced."""
        if node is None:
            return ""
        text = re.sub(r"\s+", " ", ast.get_source_segment(self.source, node) or ast.unparse(node))
        for name, instead in self.variables.items():
            text = re.sub(rf"\b{name}\b", instead, text)
        return text


def read(path: Path) -> Module:
    """Return the module at `path`."""
    return Module(path, path.read_text(encoding="utf-8"))


def exported(package: Path) -> dict[str, str]:
    """Return the module that each name in the package's `__all__` comes from: `tmem.memory`, say, or nothing."""
    module = read(package / "__init__.py")
    origins = {
        alias.asname or alias.name: node.module or ""
        for node in ast.walk(module.tree)  # those for the type checker alone included
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    listed = next(value for name, value in _assignments(module.tree) if name == "__all__")
    return {name: origins.get(name, "") for name in ast.literal_eval(listed)}


def _assignments(tree: ast.Module, *, values: bool = True) -> list[tuple[str, ast.expr]]:
    """Return (name, value) of each assignment to a plain name; without values also the bare annotations."""
    found: list[tuple[str, ast.expr]] = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found += [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.value is not None:
                found.append((node.target.id, node.value))
            elif not values:
                found.append((node.target.id, node.annotation))
    return found


def _add(methods: list[Function], method: Function, *, overloaded: bool) -> None:
    """Add a method; the ways in which one is overloaded are shown together, in place of what takes them all."""
    if methods and methods[-1].name == method.name:
        before = methods.pop()
        signature = f"{before.signature}\n{method.signature}" if overloaded else before.signature
        method = replace(method, signature=signature)
    methods.append(method)


def _names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [_name(item) for item in node.decorator_list]


def _name(node: ast.expr) -> str:
    return ast.unparse(node).partition("(")[0].rpartition(".")[2]


def _text_of(node: ast.stmt | None) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return str(node.value.value) if is_text else ""  # type: ignore[union-attr]
