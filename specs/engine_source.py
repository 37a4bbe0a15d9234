"""An engine's Python source as data: names, types and constants, read from syntax trees.

Why it exists: `generate_engine.py` must know what a release's parser accepts, and importing an engine needs a GPU
stack. What the small evaluator here can not know is `UNKNOWN`; it never guesses.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

UNKNOWN: Any = object()
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
}
EMPTY: dict[str, Callable[[], Any]] = {"list": list, "dict": dict, "set": list, "tuple": list}
Env = dict[str, Any]
Hint = tuple[str, Any]
"""One alternative of a type: a builtin's name, "None", "Literal" with its values, "dataclass" or "other"."""


def dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@dataclass(frozen=True, slots=True)
class Field:
    module: str
    annotation: ast.expr | None
    default: ast.expr | None
    doc: str = ""


@dataclass(slots=True)
class Source:
    """The modules of a release; `files` maps a path in the release to its text."""

    files: Mapping[str, str]
    modules: dict[str, dict[str, tuple[str, ast.AST]]] = field(default_factory=dict)

    def defining(self, text: str) -> str:
        """The module that defines something: releases move their files."""
        return next(dotted(path) for path, source in sorted(self.files.items()) if text in source)

    def tree(self, module: str) -> ast.Module:
        base = module.replace(".", "/")
        return ast.parse(self.files.get(f"{base}/__init__.py") or self.files.get(f"{base}.py") or "")

    def names(self, module: str) -> dict[str, tuple[str, ast.AST]]:
        if module not in self.modules:
            names = self.modules[module] = {}
            is_package = f"{module.replace('.', '/')}/__init__.py" in self.files
            self._collect(self.tree(module).body, module, module if is_package else module.rpartition(".")[0], names)
        return self.modules[module]

    def _collect(
        self, body: Iterable[ast.stmt], module: str, package: str, names: dict[str, tuple[str, ast.AST]]
    ) -> None:
        for node in body:
            match node:
                case ast.If() | ast.Try():  # of TYPE_CHECKING the else branch is what runs, and it comes last
                    self._collect([*node.body, *node.orelse], module, package, names)
                case ast.ImportFrom():
                    parts = package.split(".")
                    above = parts[: len(parts) - node.level + 1] if node.level else []
                    origin = ".".join([*above, *filter(None, [node.module])])
                    names.update({a.asname or a.name: (origin, ast.Name(a.name)) for a in node.names})
                case ast.ClassDef() | ast.FunctionDef():
                    names[node.name] = (module, node)
                case ast.Assign(targets=[ast.Name(id)], value=value):
                    names[id] = (module, value)
                case ast.AnnAssign(target=ast.Name(id), value=ast.expr() as value):
                    names[id] = (module, value)

    def lookup(self, module: str, name: str) -> tuple[str, ast.AST] | None:
        found = self.names(module).get(name)
        if found and isinstance(found[1], ast.Name):
            return self.lookup(found[0], found[1].id) or found
        return found

    def members(self, module: str, name: str) -> dict[str, Field]:
        """What a class declares, its bases' first."""
        fields: dict[str, Field] = {}
        found = self.lookup(module, name)
        if not found or not isinstance(found[1], ast.ClassDef):
            return fields
        module, cls = found[0], found[1]
        for base in cls.bases:
            fields |= self.members(module, ast.unparse(base))
        for node, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            match after:
                case ast.Expr(value=ast.Constant(value=str() as doc)):
                    pass
                case _:
                    doc = ""
            match node:
                case ast.AnnAssign(target=ast.Name(id)):
                    hint = None if ast.unparse(node.annotation).startswith("ClassVar") else node.annotation
                    fields[id] = Field(module, hint, node.value, doc)
                case ast.Assign(targets=[ast.Name(id)]):
                    fields[id] = Field(module, None, node.value, doc)
        return fields

    def methods(self, module: str, name: str, method: str) -> list[tuple[str, ast.FunctionDef]]:
        """A class's method and those that it overrides, the base's first: they call `super()` first."""
        found = self.lookup(module, name)
        if not found or not isinstance(found[1], ast.ClassDef):
            return []
        bases = [m for base in found[1].bases for m in self.methods(found[0], ast.unparse(base), method)]
        return bases + [(found[0], n) for n in found[1].body if isinstance(n, ast.FunctionDef) and n.name == method]

    def hints(self, module: str, node: ast.expr | None) -> list[Hint]:
        match node:
            case ast.Constant(value=str() as text):
                return self.hints(module, ast.parse(text, mode="eval").body)
            case ast.Constant():
                return [("None", None)]
            case ast.BinOp():
                return self.hints(module, node.left) + self.hints(module, node.right)
            case ast.Subscript(value=ast.Name("Optional" | "Annotated" | "Union" as id), slice=inner):
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                hints = [h for part in (parts[:1] if id == "Annotated" else parts) for h in self.hints(module, part)]
                return hints + ([("None", None)] if id == "Optional" else [])
            case ast.Subscript(value=ast.Name("Literal"), slice=inner):
                return [("Literal", list(self._literals(module, inner)))]
            case ast.Subscript(value=ast.Name("dict" | "list" | "set" | "tuple" as id), slice=inner):
                return [(id, inner)]
            case ast.Name("bool" | "int" | "float" | "str" | "dict" | "list" | "set" | "tuple" as id):
                return [(id, None)]
            case ast.Name(id) if found := self.lookup(module, id):
                if isinstance(found[1], ast.ClassDef):
                    return [(self._sort_of(found[1]), id)]
                return self.hints(found[0], found[1]) if isinstance(found[1], ast.expr) else [("other", id)]
        return [("other", None)]

    def _sort_of(self, cls: ast.ClassDef) -> str:
        if any(re.match(r"(\w+\.)?(config|dataclass)\b", ast.unparse(d)) for d in cls.decorator_list):
            return "dataclass"
        return "dict" if any(re.match(r"dict\b", ast.unparse(base)) for base in cls.bases) else "other"

    def _literals(self, module: str, node: ast.expr) -> Iterator[Any]:
        for item in node.elts if isinstance(node, ast.Tuple) else [node]:
            match item:
                case ast.Constant():
                    yield item.value
                case _:
                    yield from dict(self.hints(module, item)).get("Literal", ())

    def default(self, module: str, name: str, attribute: str) -> Any:
        member = self.members(module, name).get(attribute)
        return self.value(member.module, member.default, {}) if member else UNKNOWN

    def value(self, module: str, node: ast.AST | None, env: Env) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.List() | ast.Tuple() | ast.Set():
                return [self.value(module, item, env) for item in node.elts]
            case ast.Dict():
                return self._dict(module, node, env)
            case ast.Name(id):
                found = None if id in env else self.lookup(module, id)
                return self.value(*found, {}) if found else env.get(id, UNKNOWN)
            case ast.Attribute(ast.Name(id), attribute):
                return env[f"{id}.{attribute}"] if f"{id}.{attribute}" in env else self.default(module, id, attribute)
            case ast.Subscript():
                container, key = self.value(module, node.value, env), self.value(module, node.slice, env)
                return container.get(key, UNKNOWN) if isinstance(container, dict) else UNKNOWN
            case ast.BinOp() if type(node.op) in OPERATORS:
                left, right = self.value(module, node.left, env), self.value(module, node.right, env)
                return UNKNOWN if UNKNOWN in (left, right) else OPERATORS[type(node.op)](left, right)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=number)) if isinstance(number, (int, float)):
                return -number
            case ast.Lambda():
                return self.value(module, node.body, env)
            case ast.Call(func=ast.Name("get_args"), args=[ast.Name() as alias]):
                return dict(self.hints(module, alias)).get("Literal", UNKNOWN)
            case ast.Call(func=ast.Name("field" | "Field"), keywords=keywords):
                given = {k.arg: k.value for k in keywords}
                factory = given.get("default_factory")
                if isinstance(factory, ast.Name):
                    return EMPTY[factory.id]() if factory.id in EMPTY else UNKNOWN
                return self.value(module, given.get("default", factory), env)
            case ast.Call(func=ast.Name(id), args=[]) if id in EMPTY:
                return EMPTY[id]()
        return UNKNOWN

    def _dict(self, module: str, node: ast.Dict, env: Env) -> Any:
        merged: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            value = self.value(module, item, env)
            if key is not None:
                merged[self.value(module, key, env)] = value
            elif isinstance(value, dict):
                merged |= value
        return merged
