"""What engines reported when they started, against the sum that is done before anything runs.

Each row is a start-up log that somebody published: the weights that loading took, and the room left for the KV cache in
GiB or as a number of tokens. Weights are to agree within 5 %, the room within 12 % or 1.5 GiB, whichever is more.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from aibrix_compile.catalog import accelerators, models
from aibrix_compile.passes.sizing import Split, kv_bytes, size
from aibrix_compile.plan import Sizing

GIB = 2**30
GEFORCE = {"geforce-3090": 24576, "geforce-4090": 24564}
"""Not in the catalog; nvidia-smi's total in MiB."""


@dataclass(frozen=True)
class Published:
    model: str
    gpu: str
    engine: str
    utilization: float
    batch: tuple[int, int]
    """Tokens and sequences of one step, as set or the engine's defaults of that version."""
    weights: float
    room: float = 0.0
    tokens: int = 0
    tensor: int = 1
    pipeline: int = 1
    kv: int = 2
    weights_within: float = 0.05
    link: str = ""

    @property
    def split(self) -> Split:
        return Split(self.tensor, self.pipeline, self.utilization, self.kv, *self.batch, 0, 0)

    @property
    def memory(self) -> int:
        card = accelerators.find(self.gpu)
        return (card.memory_mib if card else GEFORCE[self.gpu]) * 2**20

    @property
    def sizing(self) -> Sizing:
        shape = models.find(self.model)
        assert shape is not None
        return size(shape, shape.weight_bytes, self.memory, self.split, 8192)

    @property
    def kv_room(self) -> float:
        """GiB of one GPU; tokens are counted by what they take there."""
        shape = models.find(self.model)
        assert shape is not None
        return self.room or kv_bytes(shape, self.tokens, self.split) / GIB
