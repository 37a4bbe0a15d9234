"""How fast a replica of a pool is: the profile by which its requests are routed, its scaler sizes, and it is simulated.

Measured rows come first (`policy.profile.TABLE`); what nobody measured is computed from the data sheets. The KV cache is
always the one that `sizing` found, because the owner's settings decide it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aibrix_compile.diagnostics import Problem
from aibrix_compile.passes import sizing
from aibrix_compile.passes.draft import Draft, PoolDraft
from aibrix_compile.plan import Speed
from aibrix_compile.policy import profile
from aibrix_compile.policy.profile import Profile

_PEAKS = ("bf16", "fp16", "fp32")  # of the data sheets' columns, the first that the card has


def speed(draft: Draft, pool: PoolDraft) -> Iterator[Problem]:
    """The profile and the batch of one replica; pipeline stages add KV cache, and no speed to one request."""
    shape, card, found = draft.shape, pool.accelerator, pool.sizing
    assert shape is not None and card is not None and found is not None
    split = sizing.split_of(draft, pool)
    per_token = found.kv_per_sequence / found.max_model_len
    copies = pool.spec.parallelism.data
    tokens = int(max(0, found.kv_room) / per_token)
    repository = draft.spec.model.uri.removeprefix("hf://")
    measured = profile.find(pool.site.like or card.name, repository, split.tensor)
    if measured is not None and not draft.settings.get("quantization"):
        one = replace(measured, kv_tokens=tokens)
    else:
        eight = "fp8" in (draft.settings.get("quantization"), shape.quantization)
        peaks = ("fp8", "int8", *_PEAKS) if eight else _PEAKS
        whole = sizing.kv_bytes(shape, found.max_model_len, replace(split, tensor=1, pipeline=1))
        one = profile.physical(
            name=f"{card.name}{f'x{split.tensor}' if split.tensor > 1 else ''}/{repository.rpartition('/')[2]}",
            weight_bytes=sizing.loaded(shape, draft.settings.get("quantization", "")),
            parameters=shape.active_parameters,
            kv_bytes_per_token=whole / found.max_model_len,
            bandwidth=card.bandwidth_gbps * 1e9,
            peak_flops=1e12 * next((card.tflops[name] for name in peaks if name in card.tflops), 1.0),
            kv_tokens=tokens,
            layers=shape.layers,
            hidden=shape.hidden,
            tensor=split.tensor,
            link_bandwidth=card.link_gbps * 1e9,
        )
    pool.speed = Speed(
        profile=_copied(one, copies),
        max_num_seqs=split.batch_sequences * copies,
        max_num_batched_tokens=split.batch_tokens * copies,
        prefix_caching=draft.settings.get("enable-prefix-caching", "true").lower() != "false",
    )
    draft.decide((*pool.path, "speed"), one.name, one.source, one.error)
    yield from ()


def _copied(one: Profile, copies: int) -> Profile:
    """A replica of several data-parallel engines, taken for one that shares its tokens out among them."""
    if copies == 1:
        return one
    shares = {name: getattr(one, name) / copies for name in ("token_ms", "context_ms", "attention_ms", "sequence_ms")}
    return replace(one, name=f"{one.name} x{copies}", kv_tokens=one.kv_tokens * copies, **shares)
