"""The sum for one GPU: hand-computed cases, monotonicity, and the longest context that fits."""

import pytest

from aibrix_compile.catalog import models
from aibrix_compile.passes.sizing import Split, kv_bytes, longest, size

GIB = 2**30
ONE = Split(1, 1, 0.9, 2, 2048, 256, 0, 0)
LLAMA = models.find("meta-llama/Llama-3.1-8B-Instruct")
DEEPSEEK = models.find("deepseek-ai/DeepSeek-V3")
assert LLAMA is not None and DEEPSEEK is not None


def test_kv_cache_of_grouped_query_attention() -> None:
    assert (
        kv_bytes(LLAMA, 16384, ONE) == 2 * 32 * 8 * 128 * 2 * 16384
    )  # K and V, layers, KV heads, width, bytes, tokens


def test_kv_cache_shards_by_heads_down_to_one_and_by_layers() -> None:
    whole = kv_bytes(LLAMA, 4096, ONE)
    assert kv_bytes(LLAMA, 4096, Split(4, 1, 0.9, 2, 2048, 256, 0, 0)) == whole // 4
    assert (
        kv_bytes(LLAMA, 4096, Split(16, 1, 0.9, 2, 2048, 256, 0, 0)) == whole // 8
    )  # 8 KV heads: 16 GPUs hold each twice
    assert kv_bytes(LLAMA, 4096, Split(1, 2, 0.9, 2, 2048, 256, 0, 0)) == whole // 2
    assert kv_bytes(LLAMA, 4096, Split(1, 1, 0.9, 1, 2048, 256, 0, 0)) == whole // 2


def test_kv_cache_of_latent_attention_is_whole_on_every_gpu() -> None:
    expected = 61 * (512 + 64) * 2 * 1024
    assert kv_bytes(DEEPSEEK, 1024, ONE) == expected
    assert kv_bytes(DEEPSEEK, 1024, Split(8, 1, 0.9, 2, 2048, 256, 0, 0)) == expected


def test_a_context_takes_whole_blocks() -> None:
    assert kv_bytes(LLAMA, 1, ONE) == kv_bytes(LLAMA, 16, ONE) < kv_bytes(LLAMA, 17, ONE)


def test_the_parts_add_up() -> None:
    sized = size(LLAMA, LLAMA.weight_bytes, 24 * GIB, ONE, 8192)
    parts = sized.weights + sized.activation + sized.adapters + sized.overhead + sized.kv_room
    assert parts == int(sized.memory * 0.9)
    assert sized.sequences == pytest.approx(sized.kv_room / kv_bytes(LLAMA, 8192, ONE))


def test_adapters_take_room() -> None:
    with_adapters = Split(1, 1, 0.9, 2, 2048, 256, 8, 64)
    sized = size(LLAMA, LLAMA.weight_bytes, 24 * GIB, with_adapters, 8192)
    # rank 64 on all linear layers of an 8 B model is about 0.3 GiB in bfloat16
    assert 8 * 0.25 * GIB < sized.adapters < 8 * 0.4 * GIB


@pytest.mark.parametrize("room", [0, 1, GIB, 2 * GIB, 5 * GIB + 1, 10**15])
def test_longest_is_the_largest_that_fits(room: int) -> None:
    found = longest(LLAMA, room, ONE)
    assert found % 16 == 0 and 0 <= found <= LLAMA.max_model_len
    assert found == 0 or kv_bytes(LLAMA, found, ONE) <= room
    assert found == LLAMA.max_model_len or kv_bytes(LLAMA, found + 16, ONE) > room
