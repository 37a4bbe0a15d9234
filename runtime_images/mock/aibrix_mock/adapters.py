"""LoRA adapters as the engine sees them: files in PEFT's layout, and the few of them that host memory keeps.

Why it exists: what vLLM does and does not check decides what a runtime has to check itself. It reads the rank and the
tensors; it does not compare shapes with the model, and layers that the model does not have change nothing. A full host
cache refuses nothing: it drops the adapter that was used longest ago and reads it again from its files when a request
needs it - if they are gone by then, the engine dies.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

LAYERS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "embed_tokens",
    "lm_head",
)
_HEADER = 100 * 2**20  # bytes; the format allows no more
READ_SECONDS = 0.015  # of an adapter of a few MB from a local disk, measured 10-20 ms


@dataclass(frozen=True, slots=True)
class Adapter:
    name: str
    path: str
    inert: bool = False
    """None of its layers is one of the model's: it answers as the base model does."""

    @property
    def salt(self) -> bytes:
        """What keeps its prefix-cache blocks apart: name and path, not the content of its files."""
        return f"{self.name}\0{self.path}".encode()


class Missing(Exception):
    """No adapter there: 404."""


class Unusable(Exception):
    """An adapter that can not be loaded: 500, the message says why."""


def read(name: str, path: str, max_rank: int) -> Adapter:
    """From its folder; Missing or Unusable."""
    folder = Path(path)
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(f"Loading lora {name} failed: No adapter found for {path}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(f"adapter_config.json: {type(error).__name__}: {error}") from None
    if rank > max_rank:
        raise Unusable(f"LoRA rank {rank} is greater than max_lora_rank {max_rank}.")
    tensors = _tensors(folder)
    return Adapter(name, path, not any(layer in tensor for tensor in tensors for layer in LAYERS))


def _tensors(folder: Path) -> list[str]:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise Unusable(f"{folder} doesn't contain tensors")
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        try:
            header = dict(json.loads(stream.read(min(size, _HEADER))))
            header.pop("__metadata__", None)
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise Unusable("Error while deserializing header: invalid header") from None
    if file.stat().st_size != 8 + size + end:
        raise Unusable("Error while deserializing header: incomplete metadata, file not fully covered")
    return list(header)


class HostCache:
    """At most `capacity` adapters, the last used ones."""

    def __init__(self, capacity: int, reader: Callable[[Adapter], object]) -> None:
        """`reader` is called for an adapter that has to be read again; what it raises ends the engine."""
        self.capacity, self._reader = capacity, reader
        self._kept: OrderedDict[str, Adapter] = OrderedDict()

    def put(self, adapter: Adapter) -> None:
        self._kept.pop(adapter.name, None)
        if len(self._kept) >= self.capacity:
            self._kept.popitem(last=False)
        self._kept[adapter.name] = adapter

    def use(self, adapters: Iterable[Adapter]) -> int:
        """Before a step: all of them are there and recently used; how many had to be read."""
        reads = 0
        for adapter in adapters:
            if adapter.name in self._kept:
                self._kept.move_to_end(adapter.name)
            else:
                self._reader(adapter)
                self.put(adapter)
                reads += 1
        return reads

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._kept)
