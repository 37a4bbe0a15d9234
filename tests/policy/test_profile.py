"""Step times: numbers worked out by hand, and what must hold for every profile and every batch."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.catalog import accelerators, models
from aibrix_compile.policy import profile as p

# 3-4-5 triangles: 10 tokens of 0.3 ms beside 4 ms of weights make 5 ms
HAND = p.Profile("hand", 4.0, 0.3, 0.001, 1e-4, 1000, "by hand", "none", step_ms=1.0, sequence_ms=0.1)


def test_a_step_of_decodes() -> None:
    # hypot(4, 10 x 0.3) + 1 + 10 x 0.1 + 0.001 x 2000
    assert p.step_ms(HAND, 10, 2000) == pytest.approx(5 + 1 + 1 + 2)


def test_a_step_of_decodes_and_chunks() -> None:
    # 4 decodes and chunks of 2 and 4 tokens make 10 tokens; pairs: 2 x (0 + 1) + 4 x (100 + 2) = 410
    assert p.step_ms(HAND, 4, 1000, [(2, 0), (4, 100)]) == pytest.approx(5 + 1 + 0.4 + 1 + 0.041)


def test_tensor_parallel_adds_two_all_reduces_a_layer() -> None:
    row = p.TABLE["h100x4/70b"]
    one = replace(row, sync_ms=0, sync_token_ms=0)
    # 160 all-reduces: 0.01 ms each, and 1000 tokens x 8192 x 2 B at 450 GB/s = 0.0364 ms each
    assert p.step_ms(row, 0, 0, [(1000, 0)]) - p.step_ms(one, 0, 0, [(1000, 0)]) == pytest.approx(
        1.6 + 160 * 0.036409, rel=1e-4
    )


def test_what_an_h100_does() -> None:
    h100 = p.TABLE["h100/8b"]
    assert p.step_ms(h100, 1, 1000) == pytest.approx(9.25 + 2 + 0.02 + 0.05, abs=0.01)
    # 2048 tokens: hypot(9.25, 57.344) = 58.085, + 2, + 1.3e-6 x 2048^2 / 2 = 2.726
    assert p.prefill_ms(h100, 2048) == pytest.approx(62.81, abs=0.01)
    # half of it cached: hypot(9.25, 28.672) = 30.127, + 2, + 1.3e-6 x 1024 x 1536 = 2.045
    assert p.prefill_ms(h100, 2048, cached=1024) == pytest.approx(34.17, abs=0.01)


def test_a_prefill_in_chunks_costs_the_weights_each_time() -> None:
    assert p.prefill_ms(HAND, 20, budget=10) == pytest.approx(2 * (5 + 1) + 1e-4 * 20 * 20 / 2)
    assert p.prefill_ms(HAND, 20, cached=20) == pytest.approx(p.step_ms(HAND, 0, 0, [(1, 19)]))


def test_lookup() -> None:
    assert p.find("nvidia-l4", "meta-llama/Llama-3.1-8B-Instruct") is p.TABLE["l4/8b"]
    assert p.find("h100", "70b", 4) is p.TABLE["h100x4/70b"]
    assert p.find("nvidia-l4", "Qwen/Qwen3-8B") is None
    assert p.find("nvidia-l4", "8b", 2) is None
    assert all(row.source and row.error and row.kv_blocks > 0 for row in p.TABLE.values())
    for ours, theirs in ((p._ACCELERATORS, accelerators.names()), (p._MODELS, models.ids())):
        assert len(ours.keys() & set(theirs)) >= 5


@pytest.mark.parametrize("name", ["nvidia-a10", "nvidia-l4"])
def test_physics_is_what_the_unmeasured_rows_were_made_of(name: str) -> None:
    card, shape = accelerators.find(name), models.find("meta-llama/Llama-3.1-8B-Instruct")
    row = p.find(name, "8b")
    assert card and shape and row
    made = p.physical(
        name=name,
        weight_bytes=shape.weight_bytes,
        parameters=shape.active_parameters,
        kv_bytes_per_token=models.kv_bytes_per_token(shape),
        bandwidth=card.bandwidth_gbps * 1e9,
        peak_flops=card.tflops["bf16"] * 1e12,
        kv_tokens=34_000,
        layers=shape.layers,
        hidden=shape.hidden,
    )
    assert made.weights_ms == pytest.approx(row.weights_ms, rel=0.01)
    assert made.context_ms == pytest.approx(row.context_ms, rel=0.02)
    assert made.token_ms == pytest.approx(row.token_ms, rel=0.25)
    assert made.attention_ms == pytest.approx(row.attention_ms, rel=0.15)
    assert "not measured" in made.source


def test_physics_by_hand() -> None:
    made = p.physical(
        name="x",
        weight_bytes=16e9,
        parameters=8e9,
        kv_bytes_per_token=100_000,
        bandwidth=1e12,
        peak_flops=100e12,
        kv_tokens=1000,
        layers=10,
        hidden=1000,
        tensor=2,
        link_bandwidth=100e9,
    )
    assert made.weights_ms == pytest.approx(10)  # 16 GB / (0.8 x 2 TB/s)
    assert made.token_ms == pytest.approx(16 / 110)  # 16 GFLOP / (0.55 x 200 TFLOP/s)
    assert made.context_ms == pytest.approx(1 / 17000)  # 100 kB / (0.85 x 2 TB/s)
    assert made.attention_ms == pytest.approx(4e-5 / 90)  # 40 kFLOP / (0.45 x 200 TFLOP/s)
    assert made.sync_ms == pytest.approx(0.2)
    assert made.sync_token_ms == pytest.approx(0.0004)  # 20 x 1000 x 2 B / 100 GB/s
    with pytest.raises(ValueError, match="link"):
        p.physical(
            name="x",
            weight_bytes=1,
            parameters=1,
            kv_bytes_per_token=1,
            bandwidth=1,
            peak_flops=1,
            kv_tokens=1,
            tensor=2,
        )


def test_batch_limit() -> None:
    h100 = p.TABLE["h100/8b"]
    most = p.batch_limit(h100, 1000, 20.0)
    assert p.step_ms(h100, most, most * 1000) <= 20 < p.step_ms(h100, most + 1, (most + 1) * 1000)
    assert p.batch_limit(h100, 1000, 1e9) == 400  # the KV cache's end
    assert p.batch_limit(h100, 1000, 1e9, kv_share=0.85) == 340
    assert p.batch_limit(h100, 1000, 1.0) == 0


profiles = st.sampled_from(sorted(p.TABLE)).map(p.TABLE.__getitem__)
counts = st.integers(0, 2000)
chunk = st.tuples(st.integers(1, 20_000), st.integers(0, 200_000))


@given(profiles, counts, st.integers(0, 10**6), st.lists(chunk, max_size=5), st.integers(1, 1000))
def test_more_of_anything_never_takes_less(
    row: p.Profile, b: int, c: int, chunks: list[tuple[int, int]], d: int
) -> None:
    time = p.step_ms(row, b, c, chunks)
    assert time > 0
    assert p.step_ms(row, b + d, c, chunks) > time
    assert p.step_ms(row, b, c + d, chunks) > time
    assert p.step_ms(row, b, c, [*chunks, (d, 0)]) > time
    if chunks:
        (new, done), *rest = chunks
        assert p.step_ms(row, b, c, [(new + d, done), *rest]) > time
        assert p.step_ms(row, b, c, [(new, done + d), *rest]) > time
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name.endswith("_ms"):
            assert p.step_ms(replace(row, **{field.name: value + 1.0}), b, c, chunks) >= time


@given(profiles, st.integers(1, 500), st.integers(0, 10**5), st.integers(0, 60))
def test_a_jump_is_the_sum_of_its_steps(row: p.Profile, b: int, c: int, k: int) -> None:
    total = sum(p.step_ms(row, b, c + b * step) for step in range(k))
    assert p.decode_ms(row, b, c, k) == pytest.approx(total, rel=1e-9)


@given(profiles, st.integers(1, 500), st.integers(0, 10**5), st.floats(0, 1e6))
def test_steps_within_a_time_are_the_most_that_fit(row: p.Profile, b: int, c: int, ms: float) -> None:
    steps = p.decode_steps(row, b, c, ms)
    assert p.decode_ms(row, b, c, steps) <= ms < p.decode_ms(row, b, c, steps + 1)


def test_steps_of_a_profile_that_costs_nothing() -> None:
    free = replace(HAND, weights_ms=0, token_ms=0, context_ms=0, step_ms=0, sequence_ms=0)
    with pytest.raises(ValueError, match="no number"):
        p.decode_steps(free, 1, 1, 1.0)
    growing = replace(free, context_ms=0.5)
    assert p.decode_steps(growing, 2, 0, 3.0) == 3  # 0, 1 and 2 x 0.5 x 2 ms: 0 + 1 + 2
    assert p.decode_steps(growing, 2, 0, -1.0) == 0


@given(profiles, st.integers(2, 20_000), st.integers(0, 20_000), st.integers(1, 9000))
def test_prefill_is_monotone(row: p.Profile, prompt: int, cached: int, budget: int) -> None:
    if prompt / budget > 2000:
        return
    time = p.prefill_ms(row, prompt, cached, budget)
    assert time > 0
    assert p.prefill_ms(row, prompt + 1, cached, budget) >= time * (1 - 1e-9) or cached >= prompt
    assert p.prefill_ms(row, prompt, cached, 10**6) <= time * (1 + 1e-9)
