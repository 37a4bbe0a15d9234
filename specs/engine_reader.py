"""What an engine's parser accepts and what it measures, read out of its source.

Why it exists: the flags are spread over a dozen config classes whose types decide what argparse does; this follows
the statements that build the parser, without running them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, cast

from engine_source import UNKNOWN, Env, Field, Source, dotted

ENGINE = "vllm.engine.arg_utils"
KINDS = {
    "int": "int",
    "float": "float",
    "json.loads": "json",
    "parse_type(json.loads)": "json",
    "human_readable_int": "human-int",
    "human_readable_int_or_auto": "human-int-or-auto",
    "union_dict_and_str": "str-or-json",
    "lambda s: s.lower().replace('-', '_')": "folded",
}
ACTIONS: dict[str, dict[str, Any]] = {
    "argparse.BooleanOptionalAction": {"kind": "bool", "negatable": True},
    "'store_true'": {"kind": "bool", "default": False},
    "'append'": {"repeatable": True},
}
METRIC = re.compile(r"(?:.*\.)?_?(counter|gauge|histogram)(?:_cls)?", re.IGNORECASE)
DEPRECATED = re.compile(r"^\W*deprecated|--[\w-]+ is deprecated", re.IGNORECASE)
ENGINE_LABELS = ["model_name", "engine"]
"""What the engine's logger hands down as `labelnames`."""


class Parser:
    """Follows the statements that build the engine's argument parser and notes every flag."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.flags: dict[str, dict[str, Any]] = {}
        self.converters = dict(self._converters())
        frontend = source.defining("def make_arg_parser(")
        self._run(frontend, [cast(ast.stmt, source.names(frontend)["make_arg_parser"][1])], {})
        env: Env = {"frontend_kwargs": self._kwargs(frontend, "FrontendArgs")}
        for method in ("_customize_cli_kwargs", "add_cli_args"):
            for module, function in source.methods(frontend, "FrontendArgs", method):
                self._run(module, function.body, env)
        for name, kwargs in env["frontend_kwargs"].items():
            self._note([f"--{name.replace('_', '-')}"], kwargs)
        for module, function in source.methods(ENGINE, "AsyncEngineArgs", "add_cli_args"):
            self._run(module, function.body, {})

    def _converters(self) -> Iterator[tuple[str, str]]:
        """Fields that get their converter by name: `if name == "max_model_len": kwargs[name]["type"] = ...`."""
        nodes = list(ast.walk(self.source.tree(ENGINE)))
        sets = {ast.unparse(n.targets[0]): n.value for n in nodes if isinstance(n, ast.Assign)}
        for node in nodes:
            match node:
                case ast.If(test=ast.Compare(left=ast.Name("name"), comparators=[where])):
                    names = sets.get(where.id, where) if isinstance(where, ast.Name) else where
                    to = ast.unparse(node.body[0].value) if isinstance(node.body[0], ast.Assign) else ""
                    yield from (
                        (str(n.value), to) for n in ast.walk(names) if isinstance(n, ast.Constant) and to in KINDS
                    )

    def _kwargs(self, module: str, name: str) -> dict[str, dict[str, Any]]:
        fields = self.source.members(module, name)
        return {key: self._of_field(key, f) for key, f in fields.items() if f.annotation and not key.startswith("_")}

    def _of_field(self, name: str, field: Field) -> dict[str, Any]:
        default = self.source.value(field.module, field.default, {}) if field.default else None
        return self._of_type(name, field.module, field.annotation) | {"default": default, "help": field.doc}

    def _of_type(self, name: str, module: str, annotation: ast.expr | None) -> dict[str, Any]:
        """argparse's view of a type, in the order of precedence that the engine itself follows."""
        hints = dict(self.source.hints(module, annotation))
        many = next((kind for kind in ("tuple", "list", "set") if kind in hints), None)
        said: dict[str, Any] = {"kind": "str"}
        if "dataclass" in hints:
            said = {"kind": "json"}
        elif hints.keys() == {"bool", "str", "None"}:
            said = {"kind": "str", "nargs": "?"}
        elif "bool" in hints:
            return {"kind": "bool", "negatable": True}
        elif values := hints.get("Literal"):
            said = {"kind": type(values[0]).__name__} | ({} if "str" in hints else {"choices": sorted(values)})
        elif many:
            inner = hints[many].elts[0] if isinstance(hints[many], ast.Tuple) else hints[many]
            element = self.source.hints(module, inner)
            said |= (self._of_type("", module, inner) if len(element) == 1 else {}) | {"nargs": "+"}
        elif "int" in hints:
            said = {"kind": KINDS[self.converters.get(name, "int")]}
        elif "float" in hints:
            said = {"kind": "float"}
        elif "dict" in hints:
            said = {"kind": "str-or-json" if hints.keys() & {"str", "other"} else "json"}
        return said | ({"optional": True} if "None" in hints else {})

    def _set(self, module: str, kwargs: dict[str, Any], key: str, node: ast.expr, env: Env) -> None:
        text = ast.unparse(node)
        if key == "type":
            inner = text.removeprefix("optional_type(").removesuffix(")") if text.startswith("optional_type(") else text
            kwargs |= {"kind": KINDS.get(inner, "str"), "optional": inner != text}
        elif key == "action":
            kwargs |= ACTIONS.get(text, {})
        else:
            kwargs[key] = self.source.value(module, node, env)

    def _value(self, module: str, node: ast.expr, env: Env) -> Any:
        match node:
            case ast.Call(func=ast.Name("get_kwargs"), args=[ast.Name(id)]):
                return self._kwargs(module, id)
            case ast.Call():
                return UNKNOWN
            case ast.Subscript(value=ast.Call() as call, slice=ast.Constant(value=key)):
                return self._value(module, call, env)[key]
        return self.source.value(module, node, env)

    def _run(self, module: str, body: list[ast.stmt], env: Env) -> None:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.If():
                    self._run(module, node.body, env)
                case ast.Assign(targets=[ast.Name(id)]) if id != "frontend_kwargs":
                    env[id] = self._value(module, node.value, env)
                case ast.Assign(targets=[ast.Subscript(value=target, slice=ast.Constant(value=str() as key))]):
                    if isinstance(kwargs := self.source.value(module, target, env), dict):
                        self._set(module, kwargs, key, node.value, env)
                case ast.Delete():
                    for gone in node.targets:
                        if isinstance(gone, ast.Subscript) and isinstance(gone.slice, ast.Constant):
                            self.source.value(module, gone.value, env).pop(gone.slice.value, None)
                case ast.Expr(value=ast.Call(func=ast.Attribute(owner, "remove"), args=[item])):
                    self.source.value(module, owner, env).remove(self.source.value(module, item, env))
                case ast.Expr(value=ast.Call(func=ast.Attribute(attr="add_argument")) as call):
                    names = [self.source.value(module, name, env) for name in call.args]
                    kwargs = {"kind": "str"}
                    for keyword in call.keywords:
                        if keyword.arg is None:
                            kwargs |= self.source.value(module, keyword.value, env)
                        else:
                            self._set(module, kwargs, keyword.arg, keyword.value, env)
                    self._note(names, kwargs)

    def _note(self, names: list[str], kwargs: dict[str, Any]) -> None:
        name, *others = [name[2:] for name in names if name.startswith("--")] or [""]
        deprecated = bool(kwargs.get("deprecated")) or bool(DEPRECATED.search(str(kwargs.get("help"))))
        said = {
            "kind": kwargs["kind"],
            "default": kwargs.get("default"),
            "choices": kwargs.get("choices"),
            "aliases": others,
            "short": [short[1:] for short in names if re.match("-[^-]", short)],
            "deprecated": deprecated,
        } | {key: kwargs.get(key) for key in ("nargs", "negatable", "optional", "repeatable")}
        if name:
            kept = {key: value for key, value in said.items() if value not in (None, []) and known(value)}
            self.flags[name] = {key: value for key, value in kept.items() if value is not False or key == "default"}


class Metrics:
    """Every counter, gauge and histogram whose name the source spells out; `when` is the condition around it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: dict[str, dict[str, Any]] = {}
        for path, text in sorted(source.files.items()):
            if "vllm:" in text:
                self._run(dotted(path), ast.parse(text).body, {}, "")

    def _run(self, module: str, body: list[ast.stmt], env: Env, when: str) -> None:
        for node in body:
            match node:
                case ast.ClassDef() | ast.With() | ast.Try():
                    self._run(module, node.body, env, when)
                case ast.FunctionDef():
                    handed = {arg.arg: ENGINE_LABELS for arg in node.args.args if arg.arg == "labelnames"}
                    self._run(module, node.body, env | handed | {"listed": list(_listed(node))}, when)
                case ast.If():
                    self._run(module, node.body, env, ast.unparse(node.test))
                    self._run(module, node.orelse, env, f"not ({ast.unparse(node.test)})")
                case _:
                    for target, value in _bindings(node):
                        env[target] = self.source.value(module, value, env)
                    for call in ast.walk(node):
                        if isinstance(call, ast.Call) and (kind := METRIC.fullmatch(ast.unparse(call.func))):
                            self._note(module, call, kind[1].lower(), env, when)

    def _note(self, module: str, call: ast.Call, kind: str, env: Env, when: str) -> None:
        given = dict(zip(("name", "documentation", "labelnames"), call.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        said = {key: self.source.value(module, given.get(key), env) for key in ("name", "documentation", "labelnames")}
        named = [(said["name"], said["documentation"])]
        for name, text in env.get("listed", []) if said["name"] is UNKNOWN else named:
            if str(name).startswith("vllm:"):
                entry = {"type": kind, "help": text, "labels": said["labelnames"], "when": when}
                self.found[name] = {key: value for key, value in entry.items() if value and known(value)}


def known(value: Any) -> bool:
    return value is not UNKNOWN and not (isinstance(value, list) and UNKNOWN in value)


def _listed(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """The `("vllm:name", "help")` pairs of a function that makes its metrics in a loop over them."""
    for node in ast.walk(function):
        match node:
            case ast.Tuple(elts=[ast.Constant(value=str() as name), ast.Constant(value=str() as text)]):
                yield name, text


def _bindings(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Assign(targets=[ast.Name() | ast.Attribute() as target], value=value):
            yield ast.unparse(target), value
