"""The sizes of models: those that the catalog knows, and those that a spec or a config.json describes.

Why it exists: whether a model fits an accelerator, how long it takes to load and what a token costs are arithmetic on
a dozen numbers. Widely used models have theirs in `models.json`; for the rest they are computed here.

Parameters = embeddings + head + layers x (attention + MLP x experts + router + norms) + norm. Biases, sinks and
q-norms are left out (below 0.1 %), and every layer counts as a mixture when there are experts (within 6 % for models
whose first layers are dense). Weight bytes: a quantised dtype covers the linear layers with their scales - of mxfp4
the experts alone - and everything else takes two bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from aibrix_compile.catalog.data import load

WIDTHS = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5 + 2.5 / 128,
    "mxfp4": 0.5 + 1 / 32,
}
"""Bytes of a stored weight, scales included: int4 in groups of 128 with zero points, mxfp4 in blocks of 32."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    ids: tuple[str, ...]
    parameters: int
    active_parameters: int
    """Of the weights that one token visits, embedding and head included."""
    layers: int
    hidden: int
    intermediate: int
    """Width of the MLP; of one expert where there are experts."""
    heads: int
    kv_heads: int
    head_dim: int
    """With latent attention: the part of a head without rotary embedding."""
    vocab: int
    dtype: str
    max_model_len: int
    experts: int
    experts_per_token: int
    kv_lora_rank: int
    rope_head_dim: int
    sliding_window: int
    """Tokens that `sliding_layers` of the layers look back; 0: all layers see everything."""
    sliding_layers: int
    tied_embeddings: bool
    quantization: str
    weight_bytes: int
    """All safetensors files together."""
    gated: bool
    source: str


def kv_bytes_per_token(shape: ModelShape, kv_dtype_bytes: float = 2) -> int:
    """Of the whole model, before tensor parallelism divides it, while no sliding window has filled up."""
    if shape.kv_lora_rank:
        return int(shape.layers * (shape.kv_lora_rank + shape.rope_head_dim) * kv_dtype_bytes)
    return int(2 * shape.layers * shape.kv_heads * shape.head_dim * kv_dtype_bytes)


def kv_bytes(shape: ModelShape, tokens: int, kv_dtype_bytes: float = 2) -> int:
    """Of one sequence: layers with a sliding window keep no more than the window."""
    layer = kv_bytes_per_token(shape, kv_dtype_bytes) / shape.layers
    beyond = max(0, tokens - shape.sliding_window) if shape.sliding_window else 0
    return round(layer * (shape.layers * tokens - shape.sliding_layers * beyond))


@cache
def _all() -> Mapping[str, ModelShape]:
    shapes = (ModelShape(**{**entry, "ids": tuple(entry["ids"])}) for entry in load("models.json"))
    return {name: shape for shape in shapes for name in shape.ids}


def find(hf_id: str) -> ModelShape | None:
    """By the exact Hugging Face id: the hub ignores case, file caches do not."""
    return _all().get(hf_id)


def ids() -> tuple[str, ...]:
    return tuple(sorted(_all()))


def near(hf_id: str) -> str:
    """The known id that was probably meant, or ""."""
    from difflib import get_close_matches

    known = {name.lower(): name for name in ids()}
    return next((known[match] for match in get_close_matches(hf_id.lower(), known, 1, 0.8)), "")


def computed(
    *,
    layers: int,
    hidden: int,
    heads: int,
    vocab: int,
    max_model_len: int,
    parameters: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    intermediate: int | None = None,
    dtype: str = "bfloat16",
    experts: int = 0,
    experts_per_token: int = 0,
    kv_lora_rank: int = 0,
    rope_head_dim: int = 0,
    tied_embeddings: bool = False,
) -> ModelShape:
    """A shape from its sizes, by the formula of this module; `parameters`, when given, is believed."""
    kv_heads = kv_heads or heads
    head_dim = head_dim or hidden // heads
    intermediate = intermediate or 4 * hidden
    expert = 3 * hidden * intermediate
    if kv_lora_rank:
        latent = hidden * (kv_lora_rank + rope_head_dim) + 2 * kv_lora_rank * heads * head_dim
        attention = hidden * heads * (head_dim + rope_head_dim) + latent + heads * head_dim * hidden
    else:
        attention = 2 * hidden * head_dim * (heads + kv_heads)
    mixture = layers * expert * max(1, experts)
    linear = layers * attention + mixture
    other = vocab * hidden * (1 if tied_embeddings else 2) + layers * hidden * (2 + experts) + hidden
    total = parameters or linear + other
    idle = layers * expert * (experts - experts_per_token) if experts else 0
    quantised = 0 if WIDTHS[dtype] >= 2 else mixture if dtype == "mxfp4" and experts else linear
    quantised = min(quantised, total)
    return ModelShape(
        ids=(),
        parameters=total,
        active_parameters=round(total * (1 - idle / (linear + other))),
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        dtype=dtype,
        max_model_len=max_model_len,
        experts=experts,
        experts_per_token=experts_per_token,
        kv_lora_rank=kv_lora_rank,
        rope_head_dim=rope_head_dim,
        sliding_window=0,
        sliding_layers=0,
        tied_embeddings=tied_embeddings,
        quantization="" if WIDTHS[dtype] >= 2 else dtype,
        weight_bytes=round(quantised * WIDTHS[dtype] + (total - quantised) * max(2.0, WIDTHS[dtype])),
        gated=False,
        source="computed from its sizes",
    )


def from_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The spec's `model.shape` of a Hugging Face config.json; KeyError names what is missing."""
    text: Mapping[str, Any] = {**config, **(nested if isinstance(nested := config.get("text_config"), Mapping) else {})}
    experts = _first(text, "num_local_experts", "n_routed_experts", "num_experts") or 0
    latent = text.get("kv_lora_rank") or 0
    shape = {
        "layers": text["num_hidden_layers"],
        "hidden": text["hidden_size"],
        "heads": text["num_attention_heads"],
        "vocab": text["vocab_size"],
        "maxModelLen": text["max_position_embeddings"],
        "kvHeads": text.get("num_key_value_heads"),
        "headDim": (latent and text.get("qk_nope_head_dim")) or text.get("head_dim"),
        "intermediate": (experts and text.get("moe_intermediate_size")) or text["intermediate_size"],
        "dtype": _dtype(text),
        "experts": experts,
        "expertsPerToken": text["num_experts_per_tok"] if experts else 0,
        "kvLoraRank": latent,
        "ropeHeadDim": text["qk_rope_head_dim"] if latent else 0,
    }
    return {key: value for key, value in shape.items() if value is not None}


def _first(config: Mapping[str, Any], *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _dtype(config: Mapping[str, Any]) -> str:
    quantised = config.get("quantization_config")
    if not quantised:
        if stored := _first(config, "dtype", "torch_dtype"):
            return str(stored).removeprefix("torch.")
        raise KeyError("torch_dtype")
    method = str(quantised["quant_method"]).lower()
    if method == "modelopt":
        method = str(quantised["quant_algo"]).lower()
    if method in ("mxfp4", "fp8", "fbgemm_fp8"):
        return method.removeprefix("fbgemm_")
    if method == "compressed-tensors":
        weights = next(iter(quantised["config_groups"].values()))["weights"]
        return {("float", 8): "fp8", ("int", 8): "int8", ("int", 4): "int4"}[weights["type"], weights["num_bits"]]
    return {4: "int4", 8: "int8"}[quantised["bits"]]
