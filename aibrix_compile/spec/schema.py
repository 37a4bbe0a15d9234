"""The language as data, from the same fields that decode it: JSON Schema for editors, a reference and `explain` for people.

pydantic's own JSON Schema is not used: its defaults are decoded values (300000, not 300s), its titles repeat the names, and
it changes from release to release, while specs/ has to be the same for everyone. Only `schema` and `explain` import this.
"""

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import PlainValidator, WithJsonSchema
from pydantic.fields import FieldInfo

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.spec import free, types
from aibrix_compile.spec.base import Choice, Model, nearest
from aibrix_compile.spec.decode import inline


class Entry(NamedTuple):
    """A field as it is written: its YAML key and its type with everything that was annotated."""

    key: str
    info: FieldInfo
    hint: Any

    @property
    def example(self) -> Any:
        return (self.info.examples or [None])[0]


@cache
def entries(cls: type[Model]) -> tuple[Entry, ...]:
    """The fields of a model in the order in which they are documented."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(Entry(info.alias or name, info, _some(hints[name])) for name, info in cls.model_fields.items())


def _some(hint: Any) -> Any:
    """The type without `| None`: absent fields are left out, null is no value."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
    return hint


def _decoder(hint: Any) -> Any:
    return next(one.func for one in get_args(hint) if isinstance(one, PlainValidator))


def _item(hint: Any) -> Any:
    """What a list or map holds."""
    return _some(get_args(hint)[-1])


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Model)


def _inner(hint: Any) -> type[Model] | None:
    """The model at the end of lists and maps, if there is one."""
    while get_origin(hint) in (list, dict):
        hint = _item(hint)
    return hint if _is_model(hint) else None


# --- defaults, as people write them


def _seconds(value: int) -> str:
    return f"{value // 1000}s" if value % 1000 == 0 else f"{value}ms"


def _size(value: int) -> str:
    units = (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))
    return next(f"{value // factor}{unit}" for unit, factor in units if value % factor == 0)


_SPELLING: dict[Any, Callable[[Any], str]] = {
    types.duration: _seconds,
    types.size: _size,
    types.percent: lambda value: f"{value * 100:g}%",
    types.cpu: lambda value: f"{value}m",
    types.time_of_day: lambda value: f"{value // 60:02}:{value % 60:02}",
    types.money: str,
    types.target: str,
}


def default(entry: Entry) -> Any:
    """The default as YAML data in its own spelling; None where there is none, or where the fields inside have theirs."""
    if entry.info.is_required():
        return None
    return _spelled(entry.hint, entry.info.get_default(call_default_factory=True))


def _spelled(hint: Any, value: Any) -> Any:
    if isinstance(value, Choice):
        fields = _spelled_fields(value)
        return value.name if fields[value.name] is None else fields
    if isinstance(value, Model):
        return _spelled_fields(value) or None
    if isinstance(value, list):
        return [_spelled(_item(hint), one) for one in value] or None
    if isinstance(value, dict):
        return {key: _spelled(_item(hint), one) for key, one in value.items()} or None
    if value is not None and get_origin(hint) is Annotated and (spell := _SPELLING.get(_decoder(hint))):
        return spell(value)
    return value


def _spelled_fields(value: Model) -> dict[str, Any]:
    return {
        entry.key: _spelled(entry.hint, getattr(value, name))
        for name, entry in zip(type(value).model_fields, entries(type(value)), strict=True)
        if name in value.model_fields_set
    }


# --- JSON Schema


def json_schema(cls: type[Model]) -> dict[str, Any]:
    """Draft-07 for editors, whose YAML readers guess types: text fields take numbers and booleans too.

    Definitions have neither title nor description, because editors show the innermost, and the field's own says more.
    """
    definitions: dict[str, Any] = {}
    root = _object(cls, definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": f"{cls.__name__.lower()}.v1alpha1.schema.json",
        "title": cls.__name__,
        "description": _doc(cls),
        **root,
        "definitions": dict(sorted(definitions.items())),
    }


def _object(cls: type[Model], definitions: dict[str, Any]) -> dict[str, Any]:
    fields = entries(cls)
    required = [entry.key for entry in fields if entry.info.is_required()]
    return {
        "type": "object",
        "properties": {entry.key: _field(entry, definitions) for entry in fields},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _field(entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _schema(entry.hint, definitions)
    if "$ref" in schema:  # draft-07 ignores what stands beside $ref
        schema = {"allOf": [schema]}
    written = default(entry)
    return {
        "title": entry.key,
        "description": entry.info.description,
        **schema,
        **({} if written is None else {"default": written}),
        "examples": [entry.example],
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin is Annotated:
        return copy.deepcopy(next(one.json_schema or {} for one in get_args(hint) if isinstance(one, WithJsonSchema)))
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(hint))}
    if origin is list:
        return {"type": "array", "items": _schema(_item(hint), definitions)}
    if origin is dict:
        key, inner = get_args(hint)[0], _schema(_item(hint), definitions)
        if get_origin(key) is Literal:
            return {"type": "object", "properties": dict.fromkeys(get_args(key), inner), "additionalProperties": False}
        return {"type": "object", "additionalProperties": inner}
    if hint.__name__ not in definitions:
        definitions[hint.__name__] = {}  # the place in a cycle
        definitions[hint.__name__] = _definition(hint, definitions)
    return {"$ref": f"#/definitions/{hint.__name__}"}


def _definition(cls: type[Model], definitions: dict[str, Any]) -> dict[str, Any]:
    full = _object(cls, definitions)
    if issubclass(cls, Choice):
        bare = [entry for entry in entries(cls) if not _needs_parameters(entry.hint)]
        names = {
            "type": "string",
            "enum": [entry.key for entry in bare],
            "enumDescriptions": [entry.info.description for entry in bare],
        }
        return {"anyOf": [names, full | {"minProperties": 1, "maxProperties": 1}]}
    return {"anyOf": [copy.deepcopy(cls.short_schema), full]} if cls.short_schema else full


def _needs_parameters(hint: Any) -> bool:
    return not _is_model(hint) or any(entry.info.is_required() for entry in entries(hint))


def _doc(cls: type[Model]) -> str:
    """The first paragraph of the class's own docstring (its module's, for a kind of document)."""
    return " ".join((cls.__dict__.get("__doc__") or "").strip().partition("\n\n")[0].split())


# --- words

_TYPES: dict[Any, tuple[str, str]] = {  # decoder -> what people call it, and how it is written
    types.text: ("text", "any; `0.10`, `NO` and `0777` stay text, with or without quotes"),
    types.version: ("version", "`0.32.0`"),
    types.dns_label: ("name", "lower-case letters, digits and `-`, at most 63"),
    types.dns_name: ("object name", "lower-case letters, digits, `-` and `.`, at most 253"),
    types.served_name: ("model name", "letters, digits and `. _ - / : @ +`, at most 200"),
    types.adapter_name: ("adapter name", "letters, digits and `. _ -`, at most 100"),
    types.uri: (
        "uri",
        "`hf://organisation/repository`, `s3://bucket/path`, `gs://`, `https://`, `pvc://claim/path`, `file:///path`",
    ),
    types.http_url: ("address", "`https://host:port`"),
    types.image: ("image", "`registry/repository:tag@sha256:...`"),
    types.boolean: ("true or false", "`true`, `false`"),
    types.number: ("number", "`12`, `0.5`"),
    types.duration: ("duration", "`80ms`, `2s`, `5m`, `1h`"),
    types.size: ("size", "`512Mi`, `24Gi`; also Ki and Ti"),
    types.money: ("money", "`20 USD`"),
    types.percent: ("percentage", "`70%`"),
    types.count_or_percent: ("number or percentage", "`1`, `25%`"),
    types.target: ("target", "`12 per replica`, `70%`, `2s`"),
    types.all_or_count: ("all or number", "`all`, `2`"),
    types.time_of_day: ("time of day", '`"08:00"`'),
    types.timezone: ("time zone", "`UTC`, `Europe/Berlin`"),
    types.cpu: ("CPUs", "`8`, `0.5`, `500m`"),
    free.raw: ("anything", "what the engine takes there"),
    free.free_map: ("free map", "YAML that Kubernetes defines"),
    free.free_list: ("list of free maps", "YAML that Kubernetes defines"),
}


def words(hint: Any, named: Callable[[type[Model]], str]) -> str:
    """A type in people's words; `named` says what a mapping of fields is called (a link, say)."""
    origin = get_origin(hint)
    if origin is Literal:
        return _or(get_args(hint))
    if origin is list:
        return f"list of {words(_item(hint), named)}"
    if origin is dict:
        key = get_args(hint)[0]
        keys = _or(get_args(key)) if get_origin(key) is Literal else "name"
        return f"map of {keys} to {words(_item(hint), named)}"
    if origin is Annotated:
        if (known := _TYPES.get(_decoder(hint))) is not None:
            return known[0]
        return _schema_words(_schema(hint, {}))
    if issubclass(hint, Choice):
        return named(hint)
    return (f"{_schema_words(hint.short_schema)}, or " if hint.short_schema else "") + named(hint)


def _schema_words(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_schema_words, schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return _or(schema["enum"])
    if schema["type"] == "integer":
        lowest = f" from {schema['minimum']}" if "minimum" in schema else ""
        return f"whole number{lowest}" + (f" to {schema['maximum']}" if "maximum" in schema else "")
    return "text"


def _or(values: Iterable[Any]) -> str:
    *most, last = (f"`{value}`" for value in values)
    return f"{', '.join(most)} or {last}" if most else last


def _told(entry: Entry) -> tuple[str, str]:
    """The description, and the default: its spelling, or what the description says of it."""
    text, _, computed = (entry.info.description or "").partition(" Default: ")
    written = default(entry)
    if written is not None:
        return text, f"`{inline(written)}`"
    return text, computed.removesuffix(".") if computed else ""


# --- the reference


def reference(classes: Iterable[type[Model]]) -> str:
    """specs/reference.md: a section for each mapping, in document order."""
    lines = [
        "# The spec language",
        "",
        "Generated from the fields that the compiler decodes by `aibrix-compile schema -o specs`. Required fields are **bold**. A",
        "field that is left out has its default; `null` is no value, except in an overlay, where it resets to the default.",
        "",
        "| type | is written |",
        "|---|---|",
        *(f"| {name} | {_cell(how)} |" for name, how in _TYPES.values()),
    ]
    for cls in classes:
        lines += _sections(cls)
    return "\n".join(lines) + "\n"


class _Section(NamedTuple):
    cls: type[Model]
    path: str
    depth: int


def _sections(root: type[Model]) -> Iterator[str]:
    sections = list(_walk(root, "", 0, set()))
    titles = {section.cls: _title(root, section.path) for section in sections}

    def link(cls: type[Model]) -> str:
        name = "no parameters" if not cls.model_fields else "strategy" if issubclass(cls, Choice) else "mapping"
        return f"[{name}](#{slug(titles[cls])})" if cls in titles else name

    for section in sections:
        yield from ("", f"{'#' * min(2 + section.depth, 6)} {titles[section.cls]}", "")
        if issubclass(section.cls, Choice):
            yield from ("One of these names, or a map of one of them to its parameters.", "")
        elif doc := _doc(section.cls):
            yield from (doc, "")
        yield from ("| field | type | default | what it says | example |", "|---|---|---|---|---|")
        for entry in entries(section.cls):
            path = f"`{_join(section.path, entry.key)}`"
            text, written = _told(entry)
            cells = (
                f"**{path}**" if entry.info.is_required() else path,
                words(entry.hint, link),
                written or "-",
                text,
                f"`{inline(entry.example)}`",
            )
            yield "| " + " | ".join(map(_cell, cells)) + " |"


def _walk(cls: type[Model], path: str, depth: int, seen: set[type[Model]]) -> Iterator[_Section]:
    seen.add(cls)
    yield _Section(cls, path, depth)
    for entry in entries(cls):
        inner = _inner(entry.hint)
        if inner is not None and inner not in seen and inner.model_fields:
            yield from _walk(inner, _join(path, entry.key) + _holder(entry.hint), depth + 1, seen)


def _holder(hint: Any) -> str:
    """What leads from a field to the fields inside: `[]` for items, `[name]` for the entries of a map."""
    origin = get_origin(hint)
    return ("[]" if origin is list else "[name]") + _holder(_item(hint)) if origin in (list, dict) else ""


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _title(root: type[Model], path: str) -> str:
    return f"{root.__name__} {path}".strip()


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# --- explain


def describe(topic: str) -> str:
    """What a field means: `scaling.strategy`, `spec.pools[0].replicas`, `environments.policy`. UsageError if there is none."""
    from aibrix_compile.spec.modelservice import ModelService
    from aibrix_compile.spec.project import Project

    steps = ["".join(match) for match in re.findall(r"""\["([^"]*)"\]|\[([^\]]*)\]|([^.\[\]]+)""", topic)]
    tops = {entry.key for entry in entries(ModelService)}
    full = steps if steps and steps[0] in tops else ["spec", *steps]
    failures = []
    for root in (ModelService, Project):
        try:
            return _described(root, full)
        except LookupError as error:
            failures.append((error.args[0], error.args[1]))
    raise UsageError(max(failures, key=lambda failure: failure[0])[1])  # of the kind in which the path leads farther


def _described(root: type[Model], steps: list[str]) -> str:
    cls: type[Model] | None = root
    path, entry, hint = "", None, None
    for depth, step in enumerate(steps):
        known = {one.key: one for one in entries(cls)} if cls else {}
        if step not in known:
            if (
                entry is not None
                and get_origin(hint) in (list, dict)
                and (step.isdecimal() or get_origin(hint) is dict)
            ):
                hint = _item(hint)  # an index, or the name of an entry
                continue
            near = nearest(step, known)
            better = f"did you mean {_join(path, near)}? " if near else ""
            raise LookupError(
                depth, f"the language has no {_join(path, step)}; {better}known there: {', '.join(known) or 'nothing'}"
            )
        entry = known[step]
        path, hint, cls = _join(path, step), entry.hint, _inner(entry.hint)
        if depth < len(steps) - 1:
            path += _holder(hint)
    assert entry is not None
    text, written = _told(entry)
    lines = [f"{path}: {_plain(words(hint, _mapping))}", f"  {text}"]
    lines.append("  required" if entry.info.is_required() else f"  default: {_plain(written or 'none')}")
    lines.append(f"  example: {entry.key}: {inline(entry.example)}")
    if cls is not None and cls.model_fields:
        width = max(len(one.key) for one in entries(cls))
        lines += ["", "  one of" if issubclass(cls, Choice) else "  fields"]
        lines += [f"    {one.key:{width}}  {_told(one)[0]}" for one in entries(cls)]
    return "\n".join(lines)


def _mapping(cls: type[Model]) -> str:
    return "a strategy" if issubclass(cls, Choice) else "a mapping"


def _plain(text: str) -> str:
    return text.replace("`", "")
