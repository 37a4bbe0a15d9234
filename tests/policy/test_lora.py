"""Whether an adapter fits: what is taken, what is refused and why, and that nothing raises."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.policy import lora
from aibrix_compile.policy.lora import Base, Tensor

LLAMA = Base(32, 4096, 32, 8, 128, 14336, 128256)
MIXTURE = Base(48, 2048, 32, 4, 128, 768, 151936, experts=128)
LATENT = Base(61, 7168, 128, 128, 56, 2048, 129280, experts=256, mla=True)
PREFIX = "base_model.model.model.layers"


def config(rank: int = 8, **more: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": rank, "target_modules": ["q_proj"], **more}


def pair(module: str, into: int, out: int, rank: int = 8, dtype: str = "BF16") -> dict[str, Tensor]:
    shapes = {"A": (rank, into), "B": (out, rank)}
    return {f"{module}.lora_{half}.weight": Tensor(dtype, shape) for half, shape in shapes.items()}


QUERY = pair(f"{PREFIX}.0.self_attn.q_proj", 4096, 4096)


def reasons(tensors: dict[str, Tensor], base: Base = LLAMA, **more: Any) -> tuple[str, ...]:
    return lora.check(config(**more), tensors, base, max_rank=16).reasons


@pytest.mark.parametrize(
    ("module", "into", "out"),
    [
        (f"{PREFIX}.31.self_attn.q_proj", 4096, 4096),
        (f"{PREFIX}.0.self_attn.k_proj", 4096, 1024),
        (f"{PREFIX}.0.self_attn.qkv_proj", 4096, 6144),
        (f"{PREFIX}.0.mlp.down_proj", 14336, 4096),
        (f"{PREFIX}.0.mlp.gate_up_proj", 4096, 28672),
        ("base_model.model.lm_head", 4096, 128256),
        ("base_model.model.model.language_model.layers.3.self_attn.o_proj", 4096, 4096),
        ("model.layers.0.self_attn.v_proj", 4096, 1024),
    ],
)
def test_what_fits_is_taken(module: str, into: int, out: int) -> None:
    fit = lora.check(config(), pair(module, into, out), LLAMA, max_rank=16)
    assert fit == (8, (module.rpartition(".")[2],), ())


@pytest.mark.parametrize(
    ("tensors", "base", "more", "words"),
    [
        ({}, LLAMA, {}, "has no tensors"),
        (pair(f"{PREFIX}.32.self_attn.q_proj", 4096, 4096), LLAMA, {}, "is in layer 32, and the base model has 32"),
        (pair(f"{PREFIX}.0.self_attn.q_proj", 2048, 4096), LLAMA, {}, "is for 2048 -> 4096"),
        (pair(f"{PREFIX}.0.self_attn.k_proj", 4096, 4096), LLAMA, {}, "the base model has 4096 -> 1024"),
        (pair(f"{PREFIX}.0.self_attn.q_proj", 4096, 4096, rank=4), LLAMA, {}, "adapter_config.json says rank 8"),
        (pair(f"{PREFIX}.0.self_attn.q_proj", 4096, 4096, 64), LLAMA, {"rank": 64}, "rank is 64, and the service"),
        (pair(f"{PREFIX}.0.self_attn.q_proj", 4096, 4096, dtype="I8"), LLAMA, {}, "is I8; F32, F16, BF16 are taken"),
        (pair(f"{PREFIX}.0.mlp.q_proj", 4096, 4096), LLAMA, {}, "engines would ignore it"),
        (dict(list(QUERY.items())[:1]), LLAMA, {}, "has lora_A without lora_B"),
        ({"model.norm.weight": Tensor("BF16", (4096,))}, LLAMA, {}, "is no LoRA weight"),
        (pair(f"{PREFIX}.0.mlp.experts.128.up_proj", 2048, 768), MIXTURE, {}, "is of expert 128"),
        (pair(f"{PREFIX}.0.mlp.experts.1.up_proj", 2048, 8192), MIXTURE, {}, "the base model has 2048 -> 768"),
        (QUERY, LLAMA, {"use_dora": True}, "use_dora is True, which engines do not do"),
        (QUERY, LLAMA, {"bias": "all"}, "bias is 'all'; none is taken"),
        (QUERY, LLAMA, {"modules_to_save": ["lm_head"]}, "whole modules can not be swapped"),
        (QUERY, LLAMA, {"init_lora_weights": "pissa"}, "convert it to plain LoRA"),
        (QUERY, LLAMA, {"peft_type": "IA3"}, "peft_type is 'IA3'; LORA is taken"),
        (QUERY, LLAMA, {"r": "8"}, "r is '8': a whole number above 0"),
        (QUERY, LLAMA, {"rank_pattern": ["q_proj"]}, "names with whole numbers above 0"),
    ],
)
def test_what_does_not_fit_says_why(tensors: dict[str, Tensor], base: Base, more: dict[str, Any], words: str) -> None:
    rank = more.pop("rank", 8)
    fit = lora.check(config(rank) | more, tensors, base, max_rank=16)
    assert any(words in reason for reason in fit.reasons), fit.reasons


def test_a_pattern_decides_the_rank_of_a_module() -> None:
    tensors = QUERY | pair(f"{PREFIX}.1.self_attn.q_proj", 4096, 4096, rank=16)
    assert lora.check(config() | {"rank_pattern": {"1.self_attn.q_proj": 16}}, tensors, LLAMA, 16) == (
        16,
        ("q_proj",),
        (),
    )
    assert "says rank 8" in reasons(tensors)[0]


def test_what_all_tokens_visit_beside_experts_may_have_any_width() -> None:
    assert reasons(pair(f"{PREFIX}.0.mlp.shared_expert.up_proj", 2048, 5632), MIXTURE) == ()


def test_with_latent_attention_only_layers_ranks_and_pairs_are_judged() -> None:
    assert reasons(pair(f"{PREFIX}.0.self_attn.q_a_proj", 7168, 1536), LATENT) == ()
    assert "is in layer 61" in reasons(pair(f"{PREFIX}.61.self_attn.q_a_proj", 7168, 1536), LATENT)[0]


def test_a_thousand_mistakes_are_told_as_a_few_and_counted() -> None:
    found = reasons({f"x{number}": Tensor("BF16", (1,)) for number in range(1000)})
    assert len(found) == lora.MOST + 1 and found[-1] == "and 992 more"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["r", "rank_pattern", "peft_type", "bias", "init_lora_weights", "modules_to_save", "use_dora"])
NAMES = st.builds(
    "{}.{}.{}.lora_{}.weight".format,
    st.sampled_from([PREFIX, "model.layers", "layers", "h"]),
    st.integers(0, 10**12),
    st.sampled_from(["self_attn.q_proj", "mlp.experts.9.up_proj", "mlp.up_proj", "x"]),
    st.sampled_from("AB"),
)
TENSORS = st.builds(Tensor, st.sampled_from(["BF16", "F32", "U8", ""]), st.lists(st.integers(0, 2**40), max_size=4))


@given(st.dictionaries(FIELDS, JSON), st.dictionaries(NAMES | st.text(max_size=30), TENSORS, max_size=6))
def test_anything_is_judged_and_nothing_raises(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    fit = lora.check(config, tensors, LLAMA, 16)
    assert all(isinstance(one, str) and len(one) < 500 for one in fit.reasons)
    if not tensors:
        assert fit.reasons
