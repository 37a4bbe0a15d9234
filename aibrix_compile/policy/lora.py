"""Whether a LoRA adapter fits a base model, judged by its configuration and the names and shapes of its tensors.

Why it exists: an engine takes an adapter whose shapes do not fit and answers garbage with it, and one whose layers the model does
not have and answers as the base model. Both load with status 200. The runtime checks before it loads, the compiler checks what
items say; neither needs the weights.

Known are the linear layers of decoders in the naming of Llama, Qwen, Mistral and Gemma, and of experts beside them. Of a module
with another name only the rank, the pair and the layer number are judged: engines refuse names that they do not have. The same
holds for models with latent attention, whose projections have other widths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MOST = 8
"""Reasons that are told; the others are counted."""
_ATTENTION, _MLP = (
    ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"),
    ("gate_proj", "up_proj", "down_proj", "gate_up_proj"),
)
_EMBEDDINGS = ("embed_tokens", "lm_head")
_DTYPES = ("F32", "F16", "BF16")
_FOLDER = r"(?:(?:\w+\.)*language_model\.)?(?:model\.)?(?:language_model\.)?layers\.(\d+)\."
_LAYER = re.compile(
    rf"{_FOLDER}(?:self_attn\.({'|'.join(_ATTENTION)})|mlp\.(?:experts\.(\d+)\.|shared_experts?\.)?({'|'.join(_MLP)}))"
)
_NUMBER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_WEIGHT = re.compile(r"(.+?)\.?(?:lora_(A|B)(?:\.default)?\.weight|lora_embedding_(A|B))")
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""init_lora_weights that leave the base model's weights alone."""


class Tensor(NamedTuple):
    dtype: str
    shape: Sequence[int]


@dataclass(frozen=True, slots=True)
class Base:
    """The sizes of the base model. `intermediate` is that of one expert where there are experts; `mla`: latent attention."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    experts: int = 0
    mla: bool = False


class Fit(NamedTuple):
    """`reasons` why it does not fit, empty if it does."""

    rank: int
    modules: tuple[str, ...]
    reasons: tuple[str, ...]


def modules(base: Base) -> dict[str, tuple[int, int]]:
    """Module -> (in, out) of the linear layers that are known; empty with latent attention."""
    if base.mla:
        return {}
    query, key = base.heads * base.head_dim, base.kv_heads * base.head_dim
    return {
        "q_proj": (base.hidden, query),
        "k_proj": (base.hidden, key),
        "v_proj": (base.hidden, key),
        "o_proj": (query, base.hidden),
        "qkv_proj": (base.hidden, query + 2 * key),
        "embed_tokens": (base.vocab, base.hidden),
        "lm_head": (base.hidden, base.vocab),
        "gate_proj": (base.hidden, base.intermediate),
        "up_proj": (base.hidden, base.intermediate),
        "down_proj": (base.intermediate, base.hidden),
        "gate_up_proj": (base.hidden, 2 * base.intermediate),
    }


def check(config: Mapping[str, Any], tensors: Mapping[str, Tensor], base: Base, max_rank: int) -> Fit:
    """`config`: adapter_config.json; `tensors`: names, types and shapes of adapter_model.safetensors. Any content is judged,
    nothing is raised."""
    reasons = list(_features(config))
    ranks = _ranks(config, reasons)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _WEIGHT.fullmatch(name)
        if match is None:
            reasons.append(f"{name[:120]} is no LoRA weight")
            continue
        if tensor.dtype not in _DTYPES:
            reasons.append(f"{name[:120]} is {tensor.dtype[:20]}; {', '.join(_DTYPES)} are taken")
        module = match[1].removeprefix("base_model.model.")
        pairs.setdefault(module, {})[match[2] or match[3]] = tensor
    if not pairs and not reasons:
        reasons.append("adapter_model.safetensors has no tensors")
    sizes, rank, used = modules(base), 0, set()
    for module, pair in pairs.items():
        reasons += _judge(module, pair, base, sizes, ranks)
        used.add(module.rpartition(".")[2])
        if (a := pair.get("A")) and len(a.shape) == 2:
            rank = max(rank, a.shape[0])
    rank = max([rank, *(one for _, one in ranks)])
    if rank > max_rank:
        reasons.append(f"its rank is {rank}, and the service allows {max_rank}")
    if len(reasons) > MOST:
        reasons = [*reasons[:MOST], f"and {len(reasons) - MOST} more"]
    return Fit(rank, tuple(sorted(used)), tuple(reasons))


def _features(config: Mapping[str, Any]) -> list[str]:
    """What engines do not do, and what would change an answer in silence if it were ignored."""
    found = []
    if config.get("peft_type", "LORA") != "LORA":
        found.append(f"peft_type is {_shown(config['peft_type'])}; LORA is taken")
    for name in ("use_dora", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication"):
        if config.get(name):
            found.append(f"{name} is {_shown(config[name])}, which engines do not do")
    if config.get("bias", "none") != "none":
        found.append(f"bias is {_shown(config['bias'])}; none is taken")
    if config.get("modules_to_save"):
        found.append(f"modules_to_save is {_shown(config['modules_to_save'])}: whole modules can not be swapped")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        found.append(
            f"init_lora_weights is {_shown(start)}, which changes the base model's weights; convert it to plain LoRA"
        )
    return found


def _ranks(config: Mapping[str, Any], reasons: list[str]) -> list[tuple[str, int]]:
    """Pattern and rank, the most particular first; the last one is for all."""
    rank, patterns = config.get("r"), config.get("rank_pattern") or {}
    if not _whole(rank):
        reasons.append(f"r is {_shown(rank)}: a whole number above 0 is wanted")
        return []
    if not isinstance(patterns, Mapping) or not all(_whole(one) for one in patterns.values()):
        reasons.append(f"rank_pattern is {_shown(patterns)}: names with whole numbers above 0 are wanted")
        return []
    return [*((str(name), one) for name, one in patterns.items()), ("", rank)]


def _judge(
    module: str,
    pair: Mapping[str, Tensor],
    base: Base,
    sizes: Mapping[str, tuple[int, int]],
    ranks: Sequence[tuple[str, int]],
) -> list[str]:
    short = module[-100:]
    if pair.keys() != {"A", "B"}:
        return [f"{short} has lora_{min(pair)} without lora_{'B' if 'A' in pair else 'A'}"]
    a, b = pair["A"].shape, pair["B"].shape
    if len(a) != 2 or len(b) != 2:
        return [f"{short} has lora_A {_shape(a)} and lora_B {_shape(b)}; two dimensions each are wanted"]
    found = []
    kind = module.rpartition(".")[2]
    layer = _LAYER.fullmatch(module)
    number = int(layer[1][:9]) if layer else next((int(one[1][:9]) for one in _NUMBER.finditer(module)), None)
    if number is not None and number >= base.layers:
        found.append(f"{short} is in layer {number}, and the base model has {base.layers}")
    if layer and layer[3] and int(layer[3][:9]) >= base.experts:
        found.append(f"{short} is of expert {layer[3][:9]}, and the base model has {base.experts}")
    if kind in sizes and kind not in _EMBEDDINGS and layer is None:
        found.append(
            f"{short} is no module of the base model: engines would ignore it, and answer as the base model does"
        )
    wanted = _rank_of(module, ranks)
    if wanted and (a[0] != wanted or b[1] != wanted):
        found.append(
            f"{short} has lora_A {_shape(a)} and lora_B {_shape(b)}, and adapter_config.json says rank {wanted}"
        )
    elif a[0] != b[1]:
        found.append(f"{short} has lora_A {_shape(a)} and lora_B {_shape(b)}: their ranks differ")
    # beside experts, what all tokens visit is wider or narrower than they are: its width is not known
    known = kind in sizes and not (kind in _MLP and base.experts and layer and not layer[3])
    if known and (a[1], b[0]) != sizes[kind]:
        into, out = sizes[kind]
        found.append(
            f"{short} is for {a[1]} -> {b[0]} ({_shape(a)}, {_shape(b)}), and the base model has {into} -> {out}"
        )
    return found


def _rank_of(module: str, ranks: Sequence[tuple[str, int]]) -> int:
    """A pattern fits as a suffix from a dot on, as PEFT has it; regular expressions in patterns are not run: 0, not judged."""
    for pattern, rank in ranks:
        if pattern and not re.fullmatch(r"[\w.]+", pattern):
            return 0
        if not pattern or module == pattern or module.endswith(f".{pattern}"):
            return rank
    return 0


def _whole(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(str(one) for one in shape[:4])})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
