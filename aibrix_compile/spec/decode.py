"""A tree from yamlio becomes a typed model, and every mistake in it a Problem - all of them in one run.

An invalid value does not take its surroundings down: it is reported, its path is marked, and it is replaced by the field's
own documented example (or dropped, where a default exists), so that the model can be built and the passes can go on with
everything that is sound. A pass that needs a marked path is skipped, so nothing cascades.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.spec.base import Choice, Model, nearest
from aibrix_compile.spec.free import MAX_PROBLEMS
from aibrix_compile.spec.types import AMBIGUOUS, shown
from aibrix_compile.yamlio import Map, Plain, Seq

M = TypeVar("M", bound=Model)
_ROUNDS = 8  # errors can hide behind errors (a before-validator's), never this deep


@dataclass(slots=True)
class Decoded(Generic[M]):
    """`model` is None when the root is no mapping or mistakes are too many to go on. `invalid` holds the paths that passes must not rely on."""

    model: M | None
    problems: list[Problem] = field(default_factory=list)
    invalid: set[Path] = field(default_factory=set)

    def add(self, path: Path, problems: Iterable[Problem]) -> bool:
        """False once there are so many that nobody reads on."""
        self.invalid.add(path)
        self.problems += problems
        if len(self.problems) > MAX_PROBLEMS:
            rest = Problem("AC004", (), f"more than {MAX_PROBLEMS} mistakes", "correct these first")
            self.problems[MAX_PROBLEMS:] = [rest]
            return False
        return True


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
            if not result.add(path, _empty(cls, path)):
                return result
            _repair(cls, tree, path)
    for attempt in range(_ROUNDS):
        try:
            result.model = cls.model_validate(tree)
            return result
        except ValidationError as error:
            if attempt == 0 and not nulls:
                tree = _copy(tree)
            found = [(_real(tree, tuple(item["loc"])), item) for item in error.errors(include_url=False)]
        for path, item in found:
            silent = partial and item["type"] == "missing"
            if not result.add(path, () if silent else _problems(cls, path, item)):
                return result
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
    return _follow(cls, path)[0]


def model_at(cls: type[Model], path: Path) -> type[Model] | None:
    """The model whose fields stand at `path`."""
    return _model(_follow(cls, path)[1])


def _follow(annotation: Any, path: Path) -> tuple[FieldInfo | None, Any]:
    """The field at `path` and the type of what stands there; no type (None) where the language has nothing."""
    found: FieldInfo | None = None
    for step in path:
        model = _model(annotation)
        if model is not None:
            found = _fields(model).get(step)
            annotation = found.annotation if found else None
        else:
            found, annotation = None, _item(annotation)
    return found, annotation


@cache
def _fields(model: type[Model]) -> dict[str | int, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _model(annotation: Any) -> type[Model] | None:
    for candidate in (annotation, *(get_args(annotation) if get_origin(annotation) not in (list, dict) else ())):
        if isinstance(candidate, type) and issubclass(candidate, Model):
            return candidate
    return None


def _item(annotation: Any) -> Any:
    """What a list or map holds, `list[Pool] | None` -> Pool; anything holds anything."""
    for candidate in (annotation, *get_args(annotation)):
        if candidate is Any:
            return Any
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
    model = model_at(cls, path[:-1])
    if info is not None and (info.is_required() or (model is not None and issubclass(model, Choice))):
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
    return Plain(_scalar(example))


def _empty(cls: type[Model], path: Path) -> Iterator[Problem]:
    """What is wrong with a null - unless the language has no such place, and the key that leads there is reported."""
    if _follow(cls, path)[1] is not None:
        hint = "give a value, or remove the key to use the default"
        yield Problem("AC109", path, f"{dotted(path)} is empty", hint, at_key=True)
    elif model_at(cls, path[:-1]) is not None and isinstance(path[-1], str):
        yield _unknown_key(cls, path)


def _problems(cls: type[Model], path: Path, item: Any) -> Iterator[Problem]:
    if not item["type"].startswith("AC"):
        yield _problem(cls, path, item)
        return
    for one in item["ctx"].get("findings") or [item["ctx"]]:
        at = (*path, *one["at"])
        joined = f"{dotted(at)}{' ' if one['message'].startswith('is empty') else ': '}{one['message']}"
        yield Problem(one["code"], at, joined, one["hint"], fix=one["fix"] or None, at_key=one["at_key"])


def _problem(cls: type[Model], path: Path, item: Any) -> Problem:
    kind, name = item["type"], dotted(path)
    if kind == "missing":
        return _missing(cls, path, item)
    if kind == "extra_forbidden":
        return _unknown_key(cls, path)
    if kind == "literal_error":
        return _not_a_choice(path, item["ctx"]["expected"], item["input"], item["loc"][-1] == "[key]")
    model = model_at(cls, path)
    wanted = "a list" if kind == "list_type" else "a scalar or a mapping" if model and model.short else "a mapping"
    info = field_at(cls, path)
    hint = f"write it like {path[-1]}: {inline((info.examples or [''])[0])}" if info else ""
    return Problem("AC103", path, f"{name}: {wanted} is expected, not {shown(item['input'])}", hint)


def _missing(cls: type[Model], path: Path, item: Any) -> Problem:
    """A required field is not there; for a bare name of a strategy, a parameter of it."""
    location = tuple(item["loc"])
    info = field_at(cls, location)
    example = inline((info.examples or [""])[0]) if info else ""
    if len(location) == len(path):
        return Problem("AC102", path, f"{dotted(path)} is required", f"add {path[-1]}: {example}")
    strategy, parameter = location[-2:]
    hint = f"write {{{strategy}: {{{parameter}: {example}}}}}"
    return Problem("AC102", path, f"{dotted(path)}: {strategy} needs its {parameter}", hint)


def _unknown_key(cls: type[Model], path: Path) -> Problem:
    model = model_at(cls, path[:-1])
    names = [str(name) for name in _fields(model)] if model else []
    key = str(path[-1])
    near = nearest(key, names, 0.6)
    hint = f"did you mean {near}?" if near else f"known here: {', '.join(names)}"
    where = dotted(path[:-1]) or cls.__name__
    return Problem("AC101", path, f"{where} has no field {shown(key)}", hint, fix=near or None, at_key=True)


def _not_a_choice(path: Path, expected: str, given: Any, at_key: bool) -> Problem:
    if not isinstance(given, str):
        return Problem("AC103", path, f"{dotted(path)}: {expected} is expected, not {shown(given)}")
    names = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
    if path in (("apiVersion",), ("kind",)):
        return Problem(
            "AC108", path, f"{dotted(path)} is {shown(given)}, not {names[0]}", f"write {names[0]}", fix=names[0]
        )
    near = nearest(given, names)
    hint = (f"did you mean {near}? " if near else "") + "known: " + ", ".join(names)
    message = f"{dotted(path)}: {shown(given)} is not one of its {'keys' if at_key else 'values'}"
    return Problem("AC106", path, message, hint, fix=near or None, at_key=at_key)


def inline(example: Any) -> str:
    """Example data on one line, as YAML flow text."""
    if isinstance(example, dict):
        return "{" + ", ".join(f"{key}: {inline(value)}" for key, value in example.items()) + "}"
    if isinstance(example, list):
        return "[" + ", ".join(map(inline, example)) + "]"
    text = _scalar(example)
    return f'"{text}"' if isinstance(example, str) and AMBIGUOUS.match(text) else text


def _scalar(example: Any) -> str:
    return str(example).lower() if isinstance(example, bool) else str(example)
