"""An adapter's two files, read as far as it takes to judge them. Why it exists: `policy.lora` judges names and shapes; this reads
them out of files that anybody may have written, without trusting one number in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from aibrix_compile.policy import lora
from aibrix_runtime.errors import Failed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONFIG_BYTES, HEADER_BYTES = 1 << 20, 16 << 20
"""An adapter of 100 layers with all modules has a header of 200 kB."""
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_WIDTHS |= {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}


class Checked(NamedTuple):
    rank: int
    modules: tuple[str, ...]


def check(folder: Path, base: lora.Base, max_rank: int, name: str) -> Checked:
    """Failed `unusable`, with every reason that there is."""
    fit = lora.check(_config(folder / CONFIG), tensors(folder / WEIGHTS), base, max_rank)
    if fit.reasons:
        raise Failed("unusable", f"adapter {name} does not fit the base model: {'; '.join(fit.reasons)}")
    return Checked(fit.rank, fit.modules)


def _config(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as stream:
        text = stream.read(CONFIG_BYTES + 1)
    if len(text) > CONFIG_BYTES:
        raise Failed("unusable", f"{CONFIG} is above {CONFIG_BYTES} bytes")
    return _json(text, CONFIG)


def tensors(path: Path) -> dict[str, lora.Tensor]:
    """Of a safetensors file whose tensors fill it exactly: an engine that maps the file would read past its end."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise Failed("unusable", f"{WEIGHTS} is cut off: {size} bytes, and its header has {length}")
        if length > HEADER_BYTES:
            raise Failed("unusable", f"{WEIGHTS} has a header of {length} bytes; {HEADER_BYTES} are taken")
        header = dict(_json(stream.read(length), f"the header of {WEIGHTS}"))
    header.pop("__metadata__", None)
    rows: list[tuple[int, int, str]] = []
    found: dict[str, lora.Tensor] = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry)
        if end - begin != prod(shape) * _WIDTHS[dtype]:
            raise Failed("unusable", f"{WEIGHTS}: {name[:120]} has {end - begin} bytes, and its shape another number")
        rows.append((begin, end, name))
        found[name] = lora.Tensor(dtype, shape)
    at = 0
    for begin, end, name in sorted(rows):
        if begin != at:
            raise Failed(
                "unusable", f"{WEIGHTS}: {name[:120]} begins at {begin}, and the tensor before it ends at {at}"
            )
        at = end
    if at != size - 8 - length:
        raise Failed("unusable", f"{WEIGHTS} has {size - 8 - length} bytes of tensors, and its header speaks of {at}")
    return found


def _entry(name: str, entry: Any) -> tuple[str, list[int], int, int]:
    if isinstance(entry, dict):
        dtype, shape, offsets = entry.get("dtype"), _whole(entry.get("shape")), _whole(entry.get("data_offsets"))
        if (
            isinstance(dtype, str)
            and dtype in _WIDTHS
            and shape is not None
            and len(shape) <= 8
            and offsets
            and len(offsets) == 2
        ):
            begin, end = offsets
            if begin <= end:
                return dtype, shape, begin, end
    raise Failed("unusable", f"{WEIGHTS}: the entry of {name[:120]} is no tensor")


def _whole(value: Any) -> list[int] | None:
    good = isinstance(value, list) and all(type(one) is int and 0 <= one < 2**48 for one in value)
    return value if good else None


def _json(text: bytes, what: str) -> Mapping[str, Any]:
    """Strict: what two readers could read in two ways is refused."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands there twice")
        return found

    def constant(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    try:
        data = json.loads(text.decode(), object_pairs_hook=table, parse_constant=constant)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError, too
        raise Failed("unusable", f"{what} can not be read: {str(error)[:200] or 'nested too deep'}") from None
    if not isinstance(data, dict):
        raise Failed("unusable", f"{what} is no JSON object")
    return data
