"""How fast an engine is: one step's time as a function of what is in its batch.

Why it exists: the mock engine, the simulator, the cost router and the `slo` autoscaler must agree on what a token costs,
so the arithmetic stands once, as pure functions. A step is one forward pass over `n` tokens: `b` sequences that each
decode one token over contexts of `C` tokens together, and prompt chunks that are appended to what is already computed.

    T = sqrt(W^2 + (n cf)^2) + c0 + cs b + ck C + ca sum(chunk (kv + chunk/2)) + 2 L (latency + n hidden 2 B / link)

Reading the weights and multiplying overlap, hence the root; reading the KV cache, the quadratic part of attention, the
host's work and - with tensor parallelism - two all-reduces a layer add to it. All times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from types import MappingProxyType
from typing import Any

READ_SHARE = 0.8  # of the data sheet's memory bandwidth when weights are streamed
KV_SHARE = 0.85  # of it when KV blocks are
COMPUTE_SHARE = 0.55  # of the dense peak in large matrix products
ATTENTION_SHARE = 0.45  # of it in attention: 0.41 and 0.56 in the fits of H100 and A100 below
ALL_REDUCE_MS = 0.01  # of one small all-reduce within a node
HOST_MS, HOST_SEQUENCE_MS = 2.0, 0.02  # scheduling and sampling, of a step and of each sequence in it
BLOCK_TOKENS = 16
LORA_LAYER_MS = 3 / 32
"""What adapters in a batch add to a step, for each layer: 2.1 ms with 8 and 3.0 ms with 32 adapters of rank 16 over the 32 layers of
Llama 3.1 8B on an H100 (`python -m tests.bench.lora_gpu`); Punica (Chen et al. 2023) publishes 2 ms for a 7B model on an A100."""
LORA_TOKEN_SHARE = 0.16
"""And to the products of each token: 27.5 ms on 169 ms for 8,192 tokens in the same run. Engines fuse more than that run does."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One replica of one model on one kind of accelerator, all of its GPUs together; every time is in milliseconds.

    The design's letters stand in brackets.
    """

    name: str
    weights_ms: float
    """Reading all weights once [W]: the floor of every step."""
    token_ms: float
    """Matrix products of one token [cf]."""
    context_ms: float
    """Reading one token of KV cache while a sequence decodes [ck]."""
    attention_ms: float
    """Attention of one token of a prompt to one token before it [ca]."""
    kv_tokens: int
    """Tokens that the KV cache holds; at 0.92 of the memory unless `source` says otherwise."""
    source: str
    error: str
    """How far from the truth the numbers may be, in words that a report can print."""
    step_ms: float = HOST_MS
    """Of every step [c0]."""
    sequence_ms: float = HOST_SEQUENCE_MS
    """Of every sequence that decodes in it [cs]."""
    block_tokens: int = BLOCK_TOKENS
    tensor: int = 1
    """GPUs that share each layer."""
    sync_ms: float = 0.0
    """Latency of a step's all-reduces [2 L latency]; 0 on one GPU."""
    error_share: float = 0.15
    """`error` as a number: the truth is thought to lie within 1 -+ this share of every time."""
    sync_token_ms: float = 0.0
    """What one token of activations adds to them [2 L hidden 2 B / link bandwidth]; 0 on one GPU."""

    @property
    def kv_blocks(self) -> int:
        return self.kv_tokens // self.block_tokens


def step_ms(profile: Profile, sequences: int, context: int, chunks: Iterable[tuple[int, int]] = ()) -> float:
    """Of one step: `sequences` decode one token each over `context` tokens in all; `chunks` are (new tokens, tokens
    already computed) of prompts. An empty step costs what the host and the weights cost."""
    tokens, pairs = sequences, 0.0
    for chunk, computed in chunks:
        tokens += chunk
        pairs += chunk * (computed + chunk / 2)
    return _step(profile, tokens, sequences) + profile.context_ms * context + profile.attention_ms * pairs


def _step(profile: Profile, tokens: int, sequences: int) -> float:
    """Everything that depends on numbers of tokens and sequences alone."""
    # not hypot, whose last digit differs between versions of Python
    compute = sqrt(profile.weights_ms**2 + (tokens * profile.token_ms) ** 2)
    sync = profile.sync_ms + tokens * profile.sync_token_ms
    return compute + profile.step_ms + sequences * profile.sequence_ms + sync


def decode_ms(profile: Profile, sequences: int, context: int, steps: int) -> float:
    """Of `steps` steps in a row in which the same sequences decode and nothing else happens, in closed form: each step
    finds `sequences` tokens more of context, so the sum of steps 0 .. k-1 is k T0 + ck b k (k-1) / 2."""
    first = _step(profile, sequences, sequences) + profile.context_ms * context
    return steps * first + profile.context_ms * sequences * steps * (steps - 1) / 2


def decode_steps(profile: Profile, sequences: int, context: int, within_ms: float) -> int:
    """How many whole decode steps end within `within_ms`: the largest k whose `decode_ms` is not more. A profile
    without any cost has no such k: ValueError."""
    if within_ms < 0:
        return 0
    first = decode_ms(profile, sequences, context, 1)
    slope = profile.context_ms * sequences / 2
    if first <= 0 and slope <= 0:
        raise ValueError("a step that takes no time has no number of steps")
    linear = first - slope
    if slope > 0:
        root = sqrt(linear * linear + 4 * slope * within_ms)
        steps = int((root - linear) / (2 * slope)) if linear <= 0 else int(2 * within_ms / (root + linear))
    else:
        steps = int(within_ms / first)
    while steps and decode_ms(profile, sequences, context, steps) > within_ms:
        steps -= 1
    while decode_ms(profile, sequences, context, steps + 1) <= within_ms:
        steps += 1
    return steps


def prefill_ms(profile: Profile, prompt: int, cached: int = 0, budget: int = 8192) -> float:
    """Until the first token of a prompt of `prompt` tokens that has the engine to itself, in steps of at most `budget`
    tokens; `cached` of them are in the prefix cache. At least the last token is always computed."""
    done, total = min(cached, prompt - 1), 0.0
    while done < prompt:
        chunk = min(budget, prompt - done)
        total += step_ms(profile, 0, 0, ((chunk, done),))
        done += chunk
    return total


def batch_limit(profile: Profile, context: int, within_ms: float, kv_share: float = 1.0) -> int:
    """The most sequences of `context` tokens each that decode together in steps of at most `within_ms` and fit into
    `kv_share` of the KV cache; 0 if not even one does."""
    low, high = 0, int(profile.kv_tokens * kv_share) // max(1, context)
    while low < high:
        middle = (low + high + 1) // 2
        if step_ms(profile, middle, middle * context) <= within_ms:
            low = middle
        else:
            high = middle - 1
    return low


def physical(
    *,
    name: str,
    weight_bytes: float,
    parameters: float,
    kv_bytes_per_token: float,
    bandwidth: float,
    peak_flops: float,
    kv_tokens: int,
    layers: int = 0,
    hidden: int = 0,
    tensor: int = 1,
    link_bandwidth: float = 0.0,
    block_tokens: int = BLOCK_TOKENS,
) -> Profile:
    """The profile of what nobody measured, from the data sheets: bytes, bytes per second and FLOP per second of one
    GPU, sizes of the whole model. `parameters` are those that one token visits, so a mixture of experts reads too many
    weights here while its batch is small. W = bytes / 0.8 bandwidth, cf = 2 parameters / 0.55 peak,
    ck = KV bytes / 0.85 bandwidth, ca = 4 layers hidden / 0.45 peak (a query times a key and a weight times a value,
    two FLOP each); all divided by `tensor`. ValueError: several GPUs without a link between them."""
    if tensor > 1 and link_bandwidth <= 0:
        raise ValueError("tensor parallelism needs the bandwidth of the link between GPUs")
    shared = tensor > 1
    return Profile(
        name=name,
        weights_ms=1e3 * weight_bytes / (READ_SHARE * bandwidth * tensor),
        token_ms=1e3 * 2 * parameters / (COMPUTE_SHARE * peak_flops * tensor),
        context_ms=1e3 * kv_bytes_per_token / (KV_SHARE * bandwidth * tensor),
        attention_ms=1e3 * 4 * layers * hidden / (ATTENTION_SHARE * peak_flops * tensor),
        kv_tokens=kv_tokens,
        block_tokens=block_tokens,
        tensor=tensor,
        sync_ms=2 * layers * ALL_REDUCE_MS if shared else 0.0,
        sync_token_ms=1e3 * 2 * layers * hidden * 2 / link_bandwidth if shared else 0.0,
        error_share=0.35,
        source="computed from data sheets, not measured",
        error="expect 35 %: these formulas give 0.65, 0.9 and 1.2 of the W that was measured on H100, A100 and RTX 4090",
    )


_VIDUR = "fitted to Vidur's published profile of the operators"
_LLMSERVINGSIM = "fitted to LLMServingSim's published profile of the operators"
_SHEET = "data sheet, unverified"
_FIT = "a fit of operators, not of a whole engine: expect 15 %"
_GUESS = "nothing was measured: expect 30 %"
_LINK = "; the all-reduces are computed, not fitted"

# two all-reduces in each of 80 layers, of 8192 activations of 2 bytes; NVLink carries 450 and 300 GB/s each way
_SYNC_MS = 2 * 80 * ALL_REDUCE_MS
_H100_SYNC_TOKEN_MS = 1e3 * 2 * 80 * 8192 * 2 / 450e9
_A100_SYNC_TOKEN_MS = 1e3 * 2 * 80 * 8192 * 2 / 300e9

_ROWS = (
    Profile("h100/8b", 9.25, 0.0280, 5.0e-5, 1.3e-6, 400_000, _LLMSERVINGSIM, _FIT),
    Profile("a100/8b", 11.0, 0.0708, 7.6e-5, 3.0e-6, 400_000, _VIDUR, _FIT),
    Profile(
        "h100x4/70b",
        *(20.9, 0.0730, 3.2e-5, 1.7e-6, 500_000),
        source=_LLMSERVINGSIM,
        error=_FIT + _LINK,
        tensor=4,
        sync_ms=_SYNC_MS,
        sync_token_ms=_H100_SYNC_TOKEN_MS,
    ),
    Profile(
        "a100x4/70b",
        *(26.0, 0.170, 5e-5, 4e-6, 490_000),
        source=_VIDUR + "; KV tokens computed: 0.92 of 4 x 80 GiB less 141 GB of weights and 3 GiB a GPU, 320 KiB each",
        error=_FIT + _LINK,
        tensor=4,
        sync_ms=_SYNC_MS,
        sync_token_ms=_A100_SYNC_TOKEN_MS,
    ),
    Profile("rtx-pro-6000/8b", 11.14, 0.0383, 9.14e-5, 2.4e-6, 500_000, _LLMSERVINGSIM, _FIT),
    Profile("rtx-4090/8b", 16.73, 0.0906, 1.415e-4, 4.5e-6, 41_408, _LLMSERVINGSIM, _FIT),
    Profile("a10/8b", 33.5, 0.232, 2.6e-4, 9e-6, 34_000, _SHEET, _GUESS, error_share=0.3),
    Profile("l4/8b", 67.0, 0.30, 5.2e-4, 1.1e-5, 34_000, _SHEET, _GUESS, error_share=0.3),
)
TABLE: Mapping[str, Profile] = MappingProxyType({row.name: row for row in _ROWS})
"""By ACCELERATOR/MODEL, with xN after the accelerator where N GPUs share the model. 8b and 70b are Llama 3's shapes in
16 bits, whatever they were trained for."""

_ACCELERATORS = {
    "nvidia-h100-80g": "h100",
    "nvidia-a100-80g": "a100",
    "nvidia-rtx-pro-6000": "rtx-pro-6000",
    "nvidia-rtx-4090": "rtx-4090",
    "nvidia-a10": "a10",
    "nvidia-l4": "l4",
}
_MODELS = {
    f"meta-llama/{family}-{size}{tuned}": size.lower()
    for family in ("Meta-Llama-3", "Meta-Llama-3.1", "Llama-3.1", "Llama-3.3")
    for size in ("8B", "70B")
    for tuned in ("", "-Instruct")
}


def slower(profile: Profile, factor: float) -> Profile:
    """The same engine if every time were `factor` of what the profile says."""
    times = {name: getattr(profile, name) * factor for name in Profile.__slots__ if name.endswith("_ms")}
    return replace(profile, **times)


def find(accelerator: str, model: str, tensor: int = 1) -> Profile | None:
    """The table's row for a catalog's accelerator (or the table's short name) and a Hugging Face id (or 8b, 70b) on
    `tensor` GPUs; None where nothing was measured, and `physical` must do."""
    card = _ACCELERATORS.get(accelerator, accelerator)
    shape = _MODELS.get(model, model)
    return TABLE.get(f"{card}/{shape}" if tensor == 1 else f"{card}x{tensor}/{shape}")


# --- in a ScalingPolicy: times are text there, since whoever writes JSON again may round a number

_TIMES = {
    "weightsMs": "weights_ms",
    "tokenMs": "token_ms",
    "contextMs": "context_ms",
    "attentionMs": "attention_ms",
    "stepMs": "step_ms",
    "sequenceMs": "sequence_ms",
    "syncMs": "sync_ms",
    "syncTokenMs": "sync_token_ms",
}
"""A target's field -> ours."""


def read(name: str, given: Mapping[str, Any]) -> Profile:
    """KeyError, TypeError, ValueError."""
    times = {field: float(given[key]) for key, field in _TIMES.items() if key in given}
    return Profile(name=name, source="ScalingPolicy", error="", kv_tokens=given["kvTokens"], **times)  # type: ignore[arg-type]


def written(one: Profile) -> dict[str, Any]:
    """Six digits are more than any profile is worth; the smallest times stand with an exponent."""
    return {key: f"{getattr(one, field):.6g}" for key, field in _TIMES.items()} | {"kvTokens": one.kv_tokens}
