"""The models' sizes agree with each other: two figures from different files must meet through the formula."""

import pytest

from aibrix_compile.catalog import models

ALL = list(dict.fromkeys(models.find(name) for name in models.ids()))
STORES_ITS_HEAD_TWICE = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B")
BESIDE = {
    "google/gemma-3-4b-it": 419_816_304,  # a vision tower and its projector
    "google/gemma-3-12b-it": 421_290_864,
    "BAAI/bge-m3": -24 * 1024 * 4096,  # its MLP has two matrices, not three
}
"""Parameters that the formula, made for language models with a gated MLP, does not see."""


def recomputed(shape: models.ModelShape, parameters: int | None = None) -> models.ModelShape:
    return models.computed(
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        vocab=shape.vocab,
        max_model_len=shape.max_model_len,
        parameters=parameters,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate=shape.intermediate,
        dtype=shape.dtype,
        experts=shape.experts,
        experts_per_token=shape.experts_per_token,
        kv_lora_rank=shape.kv_lora_rank,
        rope_head_dim=shape.rope_head_dim,
        tied_embeddings=shape.tied_embeddings,
    )


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.ids[0])
def test_parameters_follow_from_the_sizes(shape: models.ModelShape) -> None:
    expected = recomputed(shape).parameters + BESIDE.get(shape.ids[0], 0)
    assert expected == pytest.approx(shape.parameters, rel=0.06 if shape.experts else 0.03)
    assert recomputed(shape, shape.parameters).active_parameters == pytest.approx(shape.active_parameters, rel=0.1)


@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.ids[0])
def test_weight_bytes_follow_from_parameters_and_dtype(shape: models.ModelShape) -> None:
    stored = recomputed(shape, shape.parameters).weight_bytes
    twice = 2 * shape.vocab * shape.hidden if shape.ids[0] in STORES_ITS_HEAD_TWICE else 0
    assert stored + twice == pytest.approx(shape.weight_bytes, rel=0.05)


def test_the_catalog_is_broad_and_ids_are_unique() -> None:
    assert len(ALL) >= 80
    assert sum(len(shape.ids) for shape in ALL) == len(models.ids())
    for name in ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.3-70B-Instruct", "deepseek-ai/DeepSeek-R1"):
        assert models.find(name) is not None


def test_kv_bytes() -> None:
    llama, deepseek = models.find("meta-llama/Llama-3.1-8B-Instruct"), models.find("deepseek-ai/DeepSeek-V3")
    assert models.kv_bytes_per_token(llama) == 128 * 1024
    assert models.kv_bytes_per_token(llama, 1) == 64 * 1024
    assert models.kv_bytes_per_token(deepseek) == 61 * (512 + 64) * 2
    assert models.kv_bytes(llama, 1000) == 1000 * 128 * 1024


def test_a_sliding_window_bounds_its_layers() -> None:
    gemma = models.find("google/gemma-3-27b-it")
    layer = 2 * 16 * 128 * 2
    assert models.kv_bytes(gemma, 1024) == 62 * layer * 1024
    assert models.kv_bytes(gemma, 10_000) == layer * (10 * 10_000 + 52 * 1024)


def test_find_is_exact_and_near_suggests() -> None:
    assert models.find("meta-llama/llama-3.1-8b-instruct") is None
    assert models.near("meta-llama/llama-3.1-8b-instruct") == "meta-llama/Llama-3.1-8B-Instruct"
    assert models.near("Qwen/Qwen2.5-7B-Instuct") == "Qwen/Qwen2.5-7B-Instruct"
    assert models.near("acme/nothing-like-it") == ""


def test_computed_defaults_and_given_parameters() -> None:
    shape = models.computed(layers=2, hidden=64, heads=4, vocab=100, max_model_len=512)
    assert (shape.kv_heads, shape.head_dim, shape.intermediate) == (4, 16, 256)
    assert shape.parameters == 2 * 100 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 256 + 2 * 64) + 64
    assert shape.weight_bytes == 2 * shape.parameters
    given = models.computed(layers=2, hidden=64, heads=4, vocab=100, max_model_len=512, parameters=7, dtype="float32")
    assert (given.parameters, given.weight_bytes) == (7, 28)


LLAMA = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def test_from_config() -> None:
    assert models.from_config(LLAMA) == {
        "layers": 32,
        "hidden": 4096,
        "heads": 32,
        "vocab": 128256,
        "maxModelLen": 131072,
        "kvHeads": 8,
        "intermediate": 14336,
        "dtype": "bfloat16",
        "experts": 0,
        "expertsPerToken": 0,
        "kvLoraRank": 0,
        "ropeHeadDim": 0,
    }


def test_from_config_of_a_nested_text_model() -> None:
    outer = {"model_type": "gemma3", "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152}}
    text = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    assert models.from_config({**outer, "text_config": text})["hidden"] == 4096


def test_from_config_of_a_mixture_with_latent_attention() -> None:
    shape = models.from_config(
        LLAMA
        | {"n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048}
        | {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128}
        | {"quantization_config": {"quant_method": "fp8"}}
    )
    assert (shape["experts"], shape["expertsPerToken"], shape["intermediate"]) == (256, 8, 2048)
    assert (shape["kvLoraRank"], shape["ropeHeadDim"], shape["headDim"], shape["dtype"]) == (512, 64, 128, "fp8")


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}},
            },
            "fp8",
        ),
    ],
)
def test_from_config_reads_the_quantisation(quantization: dict[str, object], dtype: str) -> None:
    assert models.from_config({**LLAMA, "quantization_config": quantization})["dtype"] == dtype


@pytest.mark.parametrize("key", sorted(set(LLAMA) - {"num_key_value_heads"}))
def test_from_config_names_the_missing_key(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        models.from_config({name: value for name, value in LLAMA.items() if name != key})
