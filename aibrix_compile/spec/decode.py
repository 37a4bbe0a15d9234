"""A tree from yamlio becomes a typed model, and every mistake in it a Problem - all of them in one run.

An invalid value does not take its surroundings down: it is reported, its path is marked, and it is replaced by the field's
own documented example (or dropped, where a default exists), so that the model can be built and the passes can go on with
everything that is sound. A pass that needs a marked path is skipped, so nothing cascades.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.spec.base import Model
from aibrix_compile.spec.types import shown
from aibrix_compile.yamlio import Map, Plain, Seq

M = TypeVar("M", bound=Model)
_ROUNDS = 8  # errors can hide behind errors (a before-validator's), never this deep


@dataclass(slots=True)
class Decoded(Generic[M]):
    """`model` is None only when the root is no mapping. `invalid` holds the paths that passes must not rely on."""

    model: M | None
    problems: list[Problem] = field(default_factory=list)
    invalid: set[Path] = field(default_factory=set)


def decode(cls: type[M], tree: Any, partial: bool = False) -> Decoded[M]:
    """Validate `tree` as `cls`. `partial` is for overlays: what is missing is not missed."""
    result: Decoded[M] = Decoded(None)
    if not isinstance(tree, Map):
        result.problems.append(Problem("AC103", (), f"a {cls.__name__} is expected, not {shown(tree)}"))
        return result
    nulls = list(_nulls(tree, ()))
    if nulls:
        tree = _copy(tree)
        for path in nulls:
            hint = "give a value, or remove the key to use the default"
            result.problems.append(Problem("AC109", path, f"{dotted(path)} is empty", hint, at_key=True))
            result.invalid.add(path)
            _repair(cls, tree, path)
    for attempt in range(_ROUNDS):
        try:
            result.model = cls.model_validate(tree)
            return result
        except ValidationError as error:
            if attempt == 0 and not nulls:
                tree = _copy(tree)
            for item in error.errors(include_url=False):
                path = _real(tree, tuple(item["loc"]))
                if not (partial and item["type"] == "missing"):
                    result.problems.append(_problem(cls, path, item))
                result.invalid.add(path)
                _repair(cls, tree, path)
    raise AssertionError(
        f"{cls.__name__}: the documented examples do not validate at {sorted(map(dotted, result.invalid))}"
    )


def dotted(path: Path) -> str:
    """A path as people write it: spec.pools[0].replicas."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else str(step))
    return text


def sound(invalid: set[Path], path: Path) -> bool:
    """Whether nothing at, above or below `path` is marked invalid."""
    return not any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in invalid)


def field_at(cls: type[Model], path: Path) -> FieldInfo | None:
    """The field of the language that `path` leads to; None for list items, map entries and unknown keys."""
    found: FieldInfo | None = None
    annotation: Any = cls
    for step in path:
        model = _model(annotation)
        if model is not None:
            found = next((f for n, f in model.model_fields.items() if (f.alias or n) == step), None)
            if found is None:
                return None
            annotation = found.annotation
        else:
            found, annotation = None, _item(annotation)
    return found


def model_at(cls: type[Model], path: Path) -> type[Model] | None:
    """The model whose fields stand at `path`."""
    annotation: Any = cls
    for step in path:
        model = _model(annotation)
        if model is None:
            annotation = _item(annotation)
            continue
        info = next((f for n, f in model.model_fields.items() if (f.alias or n) == step), None)
        annotation = info.annotation if info else None
    return _model(annotation)


def _model(annotation: Any) -> type[Model] | None:
    for candidate in (annotation, *(get_args(annotation) if get_origin(annotation) not in (list, dict) else ())):
        if isinstance(candidate, type) and issubclass(candidate, Model):
            return candidate
    return None


def _item(annotation: Any) -> Any:
    """What a list or map holds, `list[Pool] | None` -> Pool."""
    for candidate in (annotation, *get_args(annotation)):
        if get_origin(candidate) in (list, dict):
            return get_args(candidate)[-1]
    return None


def _nulls(node: Any, path: Path) -> Iterator[Path]:
    entries: Any = node.items() if isinstance(node, Map) else enumerate(node)
    for step, value in entries:
        if value is None:
            yield (*path, step)
        elif isinstance(value, Map | Seq):
            yield from _nulls(value, (*path, step))


def _copy(node: Any) -> Any:
    """The containers of a tree anew; scalars and places are shared."""
    if isinstance(node, Map):
        result = Map()
        result.at = node.at
        for key, value in node.items():
            result[key] = _copy(value)
        return result
    if isinstance(node, Seq):
        items = Seq()
        items.at = node.at
        items.extend(_copy(item) for item in node)
        return items
    return node


def _real(tree: Any, location: Path) -> Path:
    """pydantic's location without the steps that are not in the document (a missing last key stays)."""
    node, path = tree, []
    for depth, step in enumerate(location):
        inside = (isinstance(node, dict) and step in node) or (
            isinstance(node, list) and isinstance(step, int) and step < len(node)
        )
        if inside:
            node = node[step]
            path.append(step)
        elif depth == len(location) - 1 and isinstance(node, dict) and step != "[key]":
            path.append(step)
    return tuple(path)


def _repair(cls: type[Model], tree: Any, path: Path) -> None:
    """Make the place of an invalid value valid again: its field's example if the field is required, else nothing."""
    parent = tree
    for step in path[:-1]:
        parent = parent[step]
    info = field_at(cls, path)
    if info is not None and info.is_required():
        parent[path[-1]] = _as_source((info.examples or [None])[0])
    elif isinstance(parent, list) and isinstance(path[-1], int):
        holder = field_at(cls, path[:-1])
        example = (holder.examples or [[None]])[0] if holder else [None]
        parent[path[-1]] = _as_source(example[0] if isinstance(example, list) else example)
    elif isinstance(parent, dict):
        parent.pop(str(path[-1]), None)


def _as_source(example: Any) -> Any:
    """Documented example data as yamlio would have read it."""
    if isinstance(example, dict):
        return {key: _as_source(value) for key, value in example.items()}
    if isinstance(example, list):
        return [_as_source(item) for item in example]
    return Plain(str(example).strip('"'))


def _problem(cls: type[Model], path: Path, item: Any) -> Problem:
    kind, context, name = item["type"], item.get("ctx", {}), dotted(path)
    if kind.startswith("AC"):
        message = context["message"]
        joined = f"{name} {message}" if message.startswith("is empty") else f"{name}: {message}"
        return Problem(kind, path, joined, context["hint"], fix=context["fix"] or None)
    if kind == "missing":
        info = field_at(cls, path)
        hint = f"add {path[-1]}: {_inline((info.examples or [''])[0])}" if info else ""
        return Problem("AC102", path, f"{name} is required", hint)
    if kind == "extra_forbidden":
        return _unknown_key(cls, path)
    if kind == "literal_error":
        return _not_a_choice(path, context["expected"], item["input"])
    wanted = "a list" if kind == "list_type" else "a mapping"
    if item["input"] is None or kind in ("list_type", "dict_type", "model_type", "model_attributes_type"):
        return Problem("AC103", path, f"{name}: {wanted} is expected, not {shown(item['input'])}")
    return Problem("AC103", path, f"{name}: {item['msg']}")


def _unknown_key(cls: type[Model], path: Path) -> Problem:
    import difflib

    model = model_at(cls, path[:-1])
    names = [f.alias or n for n, f in model.model_fields.items()] if model else []
    key = str(path[-1])
    lowered = {n.lower(): n for n in names}
    near = [lowered[key.lower()]] if key.lower() in lowered else difflib.get_close_matches(key, names, 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
    where = dotted(path[:-1]) or cls.__name__
    return Problem("AC101", path, f'{where} has no field "{key}"', hint, fix=near[0] if near else None, at_key=True)


def _not_a_choice(path: Path, expected: str, given: Any) -> Problem:
    import difflib

    names = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
    if path[-1:] in (("apiVersion",), ("kind",)):
        return Problem(
            "AC108", path, f"{dotted(path)} is {shown(given)}, not {names[0]}", f"write {names[0]}", fix=names[0]
        )
    near = difflib.get_close_matches(str(given), names, 1, 0.5)
    hint = (f"did you mean {near[0]}? " if near else "") + "known: " + ", ".join(names)
    return Problem(
        "AC106", path, f"{dotted(path)}: {shown(given)} is not one of its values", hint, fix=near[0] if near else None
    )


def _inline(example: Any) -> str:
    """Example data on one line, as YAML flow text."""
    if isinstance(example, dict):
        return "{" + ", ".join(f"{key}: {_inline(value)}" for key, value in example.items()) + "}"
    if isinstance(example, list):
        return "[" + ", ".join(map(_inline, example)) + "]"
    return str(example)
