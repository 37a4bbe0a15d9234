"""Environments: how an overlay changes a service. One rule, and every value keeps the line that set it.

Maps merge; scalars and plain lists replace; lists of named items merge by name (a pool without a name has its
accelerator's); `null` resets to the default; `{name: x, remove: true}` drops an item. Places travel with their entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aibrix_compile.diagnostics import Path
from aibrix_compile.yamlio import Map, Place, Plain, Seq

Report = Callable[[str, Place, str, str], None]
"""Called with code, place, message and hint for what only the merge can see."""


def merge(base: Map, overlay: Map, report: Report, path: Path = ()) -> Map:
    """`base` changed by `overlay`; neither is touched. Merging onto an empty Map yields the overlay without its commands."""
    result = Map()
    for key, value in base.items():
        result.put(key, value, base.at[key])
    for key, value in overlay.items():
        place = overlay.at[key]
        if value is None:
            if key in result:
                del result[key], result.at[key]
        elif isinstance(value, Map):
            old = result.get(key)
            onto = old if isinstance(old, Map) else Map()
            result.put(key, merge(onto, value, report, (*path, key)), result.at[key] if onto else place)
        elif isinstance(value, Seq) and _named(value):
            old = result.get(key)
            mergeable = isinstance(old, Seq) and _named(old)
            onto_list = old if mergeable else Seq()
            merged = _merge_named(onto_list, value, report, (*path, key))  # type: ignore[arg-type]
            result.put(key, merged, result.at[key] if mergeable else place)
        else:
            result.put(key, value, place)
    return result


def _merge_named(base: Seq, overlay: Seq, report: Report, path: Path) -> Seq:
    order = {_name(item): index for index, item in enumerate(base)}
    items: list[tuple[Any, Place] | None] = list(zip(base, base.at, strict=True))
    for item, place in zip(overlay, overlay.at, strict=True):
        index = order.get(_name(item))
        if "remove" in item:
            if not (isinstance(item["remove"], Plain) and item["remove"] == "true") or len(item) > 2:
                report(
                    "AC123",
                    place,
                    "an item is removed by {name: ..., remove: true} and nothing else",
                    "keep name and remove: true",
                )
            elif index is None or items[index] is None:
                known = ", ".join(str(name) for name, at in order.items() if items[at] is not None) or "none"
                report("AC122", place, f'there is no item "{_name(item)}" to remove', f"items here: {known}")
            else:
                items[index] = None
        elif index is None or items[index] is None:
            order[_name(item)] = len(items)
            items.append((merge(Map(), item, report, path), place))
        else:
            old, old_place = items[index]  # type: ignore[misc]
            items[index] = (merge(old, item, report, path), old_place)
    result = Seq()
    for entry in items:
        if entry is not None:
            result.put(*entry)
    return result


def _named(items: Seq) -> bool:
    return bool(items) and all(_name(item) is not None for item in items)


def _name(item: Any) -> str | None:
    """What an item is merged by."""
    if not isinstance(item, Map):
        return None
    name = item.get("name", item.get("accelerator"))
    return str(name) if isinstance(name, str) else None
