"""Parts that belong to others: engine flags, tolerations, pod templates. Decoded by YAML 1.2's meanings, which are those
that Kubernetes and Argo CD agree on; what YAML 1.1 reads otherwise is refused, each at its own place."""

import re
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from aibrix_compile.diagnostics import Path
from aibrix_compile.spec.types import AMBIGUOUS, INT, bad, finding, mapping, shown
from aibrix_compile.yamlio import Plain

_CORE_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+\Z")
MAX_PROBLEMS = 1000  # of one document; what nobody reads any more
_EMPTY = ("is empty", "give a value, or remove the key")


def raw(value: Any) -> Any:
    """Kept as written: the pass that knows the type (an engine flag) decodes it."""
    if value is None:
        bad("AC109", *_EMPTY)
    return value


def free_map(value: Any) -> Any:
    return _checked(mapping(value), [])


def free_list(value: Any) -> Any:
    if not isinstance(value, list):
        bad("AC103", f"a list is expected, not {shown(value)}")
    found = [
        finding("AC103", f"a mapping is expected, not {shown(item)}", at=(index,))
        for index, item in enumerate(value)
        if item is not None and not isinstance(item, dict)
    ]
    return _checked(value, found)


def _checked(value: Any, found: list[dict[str, Any]]) -> Any:
    """The plain value; everything that is wrong inside is one exception, which decode.py takes apart again."""
    result = _plain(value, (), found)
    if found:
        raise PydanticCustomError("AC104", "{message}", {"message": "", "findings": found})
    return result


def _plain(value: Any, at: Path, found: list[dict[str, Any]]) -> Any:
    if len(found) > MAX_PROBLEMS:
        return None
    if isinstance(value, dict):
        return {key: _plain(item, (*at, key), found) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, (*at, index), found) for index, item in enumerate(value)]
    if value is None:
        found.append(finding("AC109", *_EMPTY, at=at))
    elif isinstance(value, Plain):
        if value in ("true", "false"):
            return value == "true"
        if INT.match(value):
            return int(value)
        if _CORE_FLOAT.match(value):
            return float(value)
        if AMBIGUOUS.match(value):
            quoted = f'"{value}"'
            message = f"{shown(value)} is read differently by different YAML readers"
            found.append(finding("AC104", message, f"write {quoted} for text", quoted, at))
    return str(value)


Raw = Annotated[Any, PlainValidator(raw), WithJsonSchema({})]
FreeMap = Annotated[dict[str, Any], PlainValidator(free_map), WithJsonSchema({"type": "object"})]
FreeList = Annotated[
    list[Any], PlainValidator(free_list), WithJsonSchema({"type": "array", "items": {"type": "object"}})
]
