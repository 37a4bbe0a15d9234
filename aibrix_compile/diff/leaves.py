"""Where two trees of JSON data differ, leaf by leaf: items that have names by name, words of a command line by their flag."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aibrix_compile.diagnostics import Path

_LONGEST = 160  # an image with its digest takes 120
_BEFORE = 20


@dataclass(frozen=True, slots=True)
class Leaf:
    """One difference. `steps` are for people: an item of a list is [its name]. `old` and `new` are the paths in the two
    trees; a value that is None is not there."""

    steps: tuple[str, ...]
    before: Any
    after: Any
    old: Path
    new: Path

    @property
    def path(self) -> str:
        return "".join(self.steps).lstrip(".")


def leaves(before: Any, after: Any, steps: tuple[str, ...] = (), old: Path = (), new: Path = ()) -> Iterator[Leaf]:
    """The differences in the order of `before`, then what is only in `after`. A mapping or item that one side lacks is
    one leaf, and so is a list whose items have no names."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from leaves(before.get(key), after.get(key), (*steps, f".{key}"), (*old, key), (*new, key))
        return
    found: list[Leaf] = []
    if isinstance(before, list) and isinstance(after, list):
        found += _items(before, after, steps, old, new)
    yield from found or [Leaf(steps, before, after, old, new)]


def _items(before: list[Any], after: list[Any], steps: tuple[str, ...], old: Path, new: Path) -> Iterator[Leaf]:
    places = (_names(before), _names(after))
    if places[0] is None or places[1] is None:
        return
    for name in {**places[0], **places[1]}:
        i, j = places[0].get(name), places[1].get(name)
        one, other = before[i] if i is not None else None, after[j] if j is not None else None
        at_old, at_new = (old if i is None else (*old, i)), (new if j is None else (*new, j))
        if isinstance(one, str) or isinstance(other, str):
            if one != other:
                yield Leaf((*steps, f".{name}"), _setting(one), _setting(other), at_old, at_new)
        else:
            yield from leaves(one, other, (*steps, f"[{name}]"), at_old, at_new)


def _names(items: list[Any]) -> dict[str, int] | None:
    """Where each item stands, by its name - that of the overlay rule, or a word's flag; None where items have none."""
    found: dict[str, int] = {}
    command_line = any(isinstance(item, str) and item.startswith("--") for item in items)
    for index, item in enumerate(items):
        name = item.get("name", item.get("accelerator")) if isinstance(item, dict) else None
        if command_line and isinstance(item, str):
            name = item.partition("=")[0] if item.startswith("--") else item
            while name in found:  # a flag that may be given several times
                name += "'"
        if not isinstance(name, str) or name in found:
            return None
        found[name] = index
    return found


def _setting(word: str | None) -> str | None:
    return None if word is None else word.partition("=")[2] or "set"


def shown(before: Any, after: Any) -> tuple[str, str]:
    """Two values on one line each, as YAML's flow style has them; of long ones, what begins shortly before they differ."""
    one, other = _flow(before), _flow(after)
    start = 0
    if max(len(one), len(other)) > _LONGEST:
        same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
        start = max(0, same - _BEFORE)
    return _cut(one, start), _cut(other, start)


def _cut(text: str, start: int) -> str:
    if len(text) <= _LONGEST:
        return text
    end = start + _LONGEST
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"


def _flow(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
