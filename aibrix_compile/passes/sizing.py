"""Sizing: whether weights, KV cache, activations and adapters fit into the memory of one GPU.

The engine takes `gpu-memory-utilization` of the memory, loads its shard of the weights, runs the largest batch once to see
what activations need, and gives the rest to the KV cache. The same sum is done here before anything runs; a context that
does not fit is refused with the longest that does. Estimates are compared with what engines report in tests/passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aibrix_compile.catalog import models
from aibrix_compile.catalog.engines import human_int
from aibrix_compile.catalog.models import ModelShape
from aibrix_compile.diagnostics import Problem
from aibrix_compile.passes.draft import Draft, PoolDraft, size_text
from aibrix_compile.plan import Sizing

_GIB = 2**30
_BLOCK = 16  # tokens of one KV block of vLLM on GPUs
# Fitted to what engines 0.19 to 0.31 print at start, tests/passes/test_published.py: 0.6 GiB RMS over its rows.
_USABLE = 0.99  # of what nvidia-smi calls the total
_CONTEXT = int(1.35 * _GIB)  # context and allocator 0.45, CUDA graphs 0.3, workspace of torch.compile 0.6
_COLLECTIVES = int(0.2 * _GIB)  # buffers when GPUs share a layer
_MXFP4 = 1.07  # experts of 2880 columns are padded to 3072 when they are loaded
_BATCHES = (  # vLLM's defaults by GPU memory in MiB: tokens and sequences of one step; an A100 counts as small
    (160 * 1024, 16384, 1024),
    (70 * 1024, 8192, 1024),
    (0, 2048, 256),
)


@dataclass(frozen=True, slots=True)
class Split:
    """How a model lies on GPUs and how its engine is set."""

    tensor: int
    pipeline: int
    utilization: float
    kv_bytes: int
    batch_tokens: int
    batch_sequences: int
    adapter_slots: int
    adapter_rank: int


def divides(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """Tensor parallel shares heads out evenly; a pipeline has at most one stage a layer."""
    shape, parallel = draft.shape, pool.spec.parallelism
    assert shape is not None
    tensor = (*pool.path, "parallelism", "tensor")
    if shape.heads % parallel.tensor:
        fitting = [n for n in (1, 2, 4, 8, 16) if shape.heads % n == 0]
        hint = f"use one of {', '.join(map(str, fitting))}"
        yield Problem(
            "AC303", tensor, f"{shape.heads} attention heads can not be shared by {parallel.tensor} GPUs", hint
        )
    elif shape.kv_heads % parallel.tensor and parallel.tensor % shape.kv_heads:
        hint = f"use a divisor or a multiple of {shape.kv_heads}"
        yield Problem("AC303", tensor, f"{shape.kv_heads} KV heads can not be shared by {parallel.tensor} GPUs", hint)
    if parallel.pipeline > shape.layers:
        message = f"{shape.layers} layers can not be cut into {parallel.pipeline} stages"
        yield Problem("AC303", (*pool.path, "parallelism", "pipeline"), message, f"use at most {shape.layers}")


def context(draft: Draft) -> Iterator[Problem]:
    """The context is at most what the model was made for, unless the engine is told how to stretch it."""
    wanted, shape = draft.spec.engine.maxModelLen, draft.shape
    assert shape is not None
    unread = ("spec", "engine", "args") in draft.invalid
    if wanted and wanted > shape.max_model_len and not unread and "hf-overrides" not in draft.spec.engine.args:
        hint = f"write at most {shape.max_model_len}, or stretch it by engine.args hf-overrides"
        message = f"the model was made for {shape.max_model_len} tokens, not {wanted}"
        yield Problem("AC306", ("spec", "engine", "maxModelLen"), message, hint, fix=str(shape.max_model_len))
    if wanted is None:
        draft.decide(("spec", "engine", "maxModelLen"), shape.max_model_len, "the model's own maximum")


def memory(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """The sum for one GPU of the pool, refused when it does not come out."""
    shape, card, engine = draft.shape, pool.accelerator, draft.engine
    assert shape is not None and card is not None and engine is not None
    split = split_of(draft, pool)
    wanted = draft.spec.engine.maxModelLen or shape.max_model_len
    sizing = pool.sizing = size(
        shape, loaded(shape, draft.settings.get("quantization", "")), card.memory_mib * 2**20, split, wanted
    )
    lines = _arithmetic(sizing, shape, split, card.name)
    draft.decide((*pool.path, "accelerator"), f"{sizing.sequences:.1f} sequences of {wanted} tokens fit", *lines)
    if sizing.kv_room <= 0:
        message = f"{size_text(sizing.weights)} of weights and {size_text(_rest(sizing))} around them do not fit into one {card.name}: "
        message += f"the engine takes {size_text(sizing.memory * sizing.utilization)} of it"
        yield Problem("AC301", (*pool.path, "accelerator"), message, _roomier(draft, pool, shape, split, wanted))
    elif sizing.sequences < 1:
        fits = longest(shape, sizing.kv_room, split)
        message = f"a context of {wanted} tokens needs {size_text(sizing.kv_per_sequence)} of KV cache; one {card.name} has {size_text(sizing.kv_room)} left for it"
        hint = f"set engine.maxModelLen: {fits}, the largest that fits" if fits else "no context fits"
        more = _roomier(draft, pool, shape, split, wanted)
        path = ("spec", "engine", "maxModelLen") if len(draft.pools) == 1 else (*pool.path, "accelerator")
        yield Problem(
            "AC302",
            path,
            message,
            f"{hint}; or {more}",
            fix=str(fits) if fits and draft.spec.engine.maxModelLen and len(draft.pools) == 1 else None,
        )


def split_of(draft: Draft, pool: PoolDraft) -> Split:
    """The settings that the sum depends on: the model owner's, else the engine's defaults."""
    assert draft.engine is not None and pool.accelerator is not None
    settings, adapters, parallel = draft.settings, draft.spec.adapters, pool.spec.parallelism
    memory = 0 if "A100" in pool.accelerator.product else pool.accelerator.memory_mib
    tokens, sequences = next((tokens, sequences) for least, tokens, sequences in _BATCHES if memory >= least)
    utilization = settings.get("gpu-memory-utilization") or str(draft.engine.flags["gpu-memory-utilization"].default)
    return Split(
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        utilization=float(utilization),
        kv_bytes=1 if settings.get("kv-cache-dtype", "auto").startswith("fp8") else 2,
        batch_tokens=_count(settings.get("max-num-batched-tokens")) or tokens,
        batch_sequences=_count(settings.get("max-num-seqs")) or sequences,
        adapter_slots=adapters.limits.maxLoaded if adapters else 0,
        adapter_rank=adapters.limits.maxRank if adapters else 0,
    )


def _count(text: str | None) -> int:
    return human_int(text) if text and text not in ("auto", "None") else 0


def loaded(shape: ModelShape, quantization: str) -> int:
    """Bytes of all weights once they are loaded, with the engine's flag `quantization`: fp8 halves 16-bit linear layers
    while loading, embeddings stay; mxfp4 experts are padded."""
    if quantization == "fp8" and shape.dtype in ("bfloat16", "float16"):
        embeddings = 2 * shape.vocab * shape.hidden * (1 if shape.tied_embeddings else 2)
        return (shape.weight_bytes + embeddings) // 2
    return int(shape.weight_bytes * _MXFP4) if shape.quantization == "mxfp4" else shape.weight_bytes


def size(shape: ModelShape, weights: int, memory_bytes: int, split: Split, max_model_len: int) -> Sizing:
    """The sum for one GPU. Bytes everywhere.

    Activations peak in the widest layer (residual stream, MLP, of every token of a batch, 2 bytes) or in the sampler
    (float32 logits and their sorted copy, of every sequence), whichever is larger.
    """
    per_token = 2 * shape.hidden + 2 * shape.intermediate * max(1, shape.experts_per_token) // split.tensor
    activation = max(split.batch_tokens * per_token * 2, split.batch_sequences * shape.vocab * 4 * 2)
    adapters = split.adapter_slots * adapter_bytes(shape, split.adapter_rank) // (split.tensor * split.pipeline)
    overhead = _CONTEXT + (_COLLECTIVES if split.tensor * split.pipeline > 1 else 0)
    shard = weights // (split.tensor * split.pipeline)
    usable = int(memory_bytes * _USABLE)
    room = int(usable * split.utilization) - shard - activation - adapters - overhead
    need = kv_bytes(shape, max_model_len, split)
    return Sizing(
        usable,
        split.utilization,
        shard,
        activation,
        adapters,
        overhead,
        room,
        need,
        max_model_len,
        max(0, room) / need,
    )


def adapter_bytes(shape: ModelShape, rank: int) -> int:
    """One adapter of `rank` on all linear layers, bytes: in + out of q, k, v, o, gate, up and down, 2 bytes each."""
    width = 2 * shape.hidden * 4 + 3 * (shape.hidden + shape.intermediate)
    return rank * width * shape.layers * 2


def kv_bytes(shape: ModelShape, tokens: int, split: Split) -> int:
    """KV cache of one sequence of `tokens` tokens on one GPU, bytes. Tensor parallel shares KV heads out, each GPU holding
    one at least; the compressed cache of multi-head latent attention is whole on every GPU; a pipeline shares layers out."""
    whole = models.kv_bytes(shape, -(-tokens // _BLOCK) * _BLOCK, split.kv_bytes)
    heads = 1.0 if shape.kv_lora_rank else max(1, shape.kv_heads // split.tensor) / shape.kv_heads
    return max(1, int(whole * heads) // split.pipeline)


def longest(shape: ModelShape, room: int, split: Split) -> int:
    """The longest context whose KV cache fits into `room`, in whole blocks; 0 when none does."""
    low, high = 0, shape.max_model_len // _BLOCK
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if kv_bytes(shape, middle * _BLOCK, split) <= room else (low, middle - 1)
    return low * _BLOCK


def _rest(sizing: Sizing) -> int:
    return sizing.activation + sizing.adapters + sizing.overhead


def _roomier(draft: Draft, pool: PoolDraft, shape: ModelShape, split: Split, wanted: int) -> str:
    """What would help: the smallest tensor parallel that fits, else a word on memory."""
    card = pool.accelerator
    assert card is not None
    for tensor in (2, 4, 8):
        if tensor > split.tensor and tensor <= pool.gpus_per_node and shape.heads % tensor == 0:
            wider = replace(split, tensor=tensor)
            if (
                size(
                    shape, loaded(shape, draft.settings.get("quantization", "")), card.memory_mib * 2**20, wider, wanted
                ).sequences
                >= 1
            ):
                return f"set parallelism: {{tensor: {tensor}}}"
    return "choose an accelerator with more memory, or a quantised model"


def _arithmetic(s: Sizing, shape: ModelShape, split: Split, name: str) -> tuple[str, ...]:
    parts = f" / {split.tensor * split.pipeline} GPUs" if split.tensor * split.pipeline > 1 else ""
    lines = [
        f"{size_text(s.memory * s.utilization):>12}  {s.utilization:g} of the {size_text(s.memory)} of one {name}",
        f"-{size_text(s.weights):>11}  weights: {shape.parameters / 1e9:.2f} B parameters as {shape.dtype}{parts}",
        f"-{size_text(s.activation):>11}  activations of {split.batch_tokens} tokens or {split.batch_sequences} sequences",
        f"-{size_text(s.overhead):>11}  context, graphs, compiler, collectives",
    ]
    if s.adapters:
        lines.append(f"-{size_text(s.adapters):>11}  {split.adapter_slots} adapters of rank {split.adapter_rank}")
    lines.append(
        f"={size_text(s.kv_room):>11}  for the KV cache: {s.sequences:.1f} x {size_text(s.kv_per_sequence)} ({s.max_model_len} tokens)"
    )
    return tuple(lines)
