"""Every field of the language documents itself truly: its example decodes, its default is what it says, words are whole."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest

from aibrix_compile.spec.base import Choice, Model
from aibrix_compile.spec.decode import decode, inline
from aibrix_compile.spec.modelservice import ModelService
from aibrix_compile.spec.project import Project
from aibrix_compile.spec.schema import Entry, default, entries
from aibrix_compile.yamlio import Map, parse
from aibrix_compile.yamlio import decode as text_of


def models(root: type[Model], seen: dict[str, type[Model]]) -> dict[str, type[Model]]:
    if root.__name__ not in seen:
        seen[root.__name__] = root
        for entry in entries(root):
            for inner in inside(entry.hint):
                models(inner, seen)
    return seen


def inside(hint: Any) -> Iterator[type[Model]]:
    if isinstance(hint, type) and issubclass(hint, Model):
        yield hint
    for one in get_args(hint) if get_origin(hint) else ():
        yield from inside(one)


MODELS = models(Project, models(ModelService, {}))
FIELDS = [(model, entry) for model in MODELS.values() for entry in entries(model)]
each_field = pytest.mark.parametrize(("model", "entry"), FIELDS, ids=[f"{m.__name__}.{e.key}" for m, e in FIELDS])


def written(text: str) -> Map:
    (document,), found = parse(text_of(text.encode(), "f.yaml"))
    assert found == [] and isinstance(document.value, Map)
    return document.value


def around(model: type[Model], entry: Entry, example: str) -> Map:
    """The smallest mapping that has `entry`: beside it only what is required."""
    others = [] if issubclass(model, Choice) else [e for e in entries(model) if e.info.is_required() and e != entry]
    lines = [f"{other.key}: {inline(other.example)}\n" for other in others]
    return written("".join([*lines, f"{entry.key}: {example}\n"]))


def test_the_walk_finds_the_language() -> None:
    assert len(MODELS) > 50 and len(FIELDS) > 180
    assert {"ModelService", "EnvVar", "Kpa", "AcceleratorSite", "CreateClaim", "S3"} <= MODELS.keys()


@each_field
def test_examples_decode_at_their_place(model: type[Model], entry: Entry) -> None:
    found = decode(model, around(model, entry, inline(entry.example)))
    assert (found.problems, found.invalid) == ([], set())
    assert found.model is not None


@each_field
def test_descriptions_are_sentences(model: type[Model], entry: Entry) -> None:
    text = entry.info.description or ""
    assert text.endswith(".") and text[:1].upper() == text[:1] and "  " not in text and len(text) < 220


@each_field
def test_defaults_are_spelled_as_they_decode(model: type[Model], entry: Entry) -> None:
    spelled = default(entry)
    if spelled is None:
        value = None if entry.info.is_required() else entry.info.get_default(call_default_factory=True)
        assert value is None or value in ([], {}) or isinstance(value, Model)
        return
    assert not entry.info.is_required()
    with_it = decode(model, around(model, entry, inline(spelled)))
    assert with_it.problems == []
    name = next(name for name, info in model.model_fields.items() if (info.alias or name) == entry.key)
    assert getattr(with_it.model, name) == entry.info.get_default(call_default_factory=True)


@pytest.mark.parametrize("root", [ModelService, Project])
def test_roots_decode_from_their_examples(root: type[Model]) -> None:
    text = "".join(f"{entry.key}: {inline(entry.example)}\n" for entry in entries(root))
    assert decode(root, written(text)).problems == []


def test_no_two_fields_of_a_model_differ_in_case_alone() -> None:
    for model in MODELS.values():
        keys = [entry.key.lower() for entry in entries(model)]
        assert len(set(keys)) == len(keys)
