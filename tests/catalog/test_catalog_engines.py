"""The engine catalog knows the flags and metrics that deployments use, and says why a value is not one."""

import pytest

from aibrix_compile.catalog import engines

FLAGS = """api-key chat-template data-parallel-size dtype enable-auto-tool-choice enable-lora enable-prefix-caching
    gpu-memory-utilization host kv-cache-dtype load-format max-cpu-loras max-lora-rank max-loras max-model-len
    max-num-batched-tokens max-num-seqs model model-loader-extra-config pipeline-parallel-size port quantization
    reasoning-parser revision served-model-name shutdown-timeout tensor-parallel-size tokenizer tool-call-parser
    trust-remote-code"""
METRICS = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:lora_requests_info": "gauge",
    "vllm:cache_config_info": "gauge",
    "vllm:prompt_tokens": "counter",
    "vllm:spec_decode_num_drafts": "counter",
}
VLLM = engines.find("vllm", "0.32.0")


@pytest.mark.parametrize("version", engines.versions("vllm"))
def test_every_version_has_the_well_known_names(version: str) -> None:
    engine = engines.find("vllm", version)
    assert [name for name in FLAGS.split() if name not in engine.flags] == []
    assert {name: engine.metrics[name].type for name in METRICS} == METRICS
    assert engine.image == f"docker.io/vllm/vllm-openai:v{version}"
    assert engine.port == 8000


def test_versions() -> None:
    assert engines.versions("vllm")[:3] == ("0.31.0", "0.32.0", "0.33.0")
    assert engines.versions("mock") == ("0.1.0",)
    assert engines.versions("unheard-of") == ()
    assert engines.find("vllm", "0.0.0") is None
    assert engines.find("vllm", "0.32") is None


def test_the_mock_takes_vllms_flags_and_has_no_image() -> None:
    mock = engines.find("mock", "0.1.0")
    assert (mock.name, mock.version, mock.image) == ("mock", "0.1.0", "")
    assert mock.flags == VLLM.flags


def test_defaults() -> None:
    assert VLLM.flags["gpu-memory-utilization"].default == 0.92
    assert (VLLM.flags["max-loras"].default, VLLM.flags["max-lora-rank"].default) == (1, 16)
    assert VLLM.flags["max-num-seqs"].default is None


def test_spellings() -> None:
    assert VLLM.flags["device-memory-utilization"] is VLLM.flags["gpu-memory-utilization"]
    assert VLLM.flag("tensor_parallel_size").name == "tensor-parallel-size"
    assert VLLM.flag("no-enable-prefix-caching").name == "enable-prefix-caching"
    assert VLLM.flag("no-disable-log-stats") is None
    assert VLLM.flag("compilation-config.cudagraph_mode").name == "compilation-config"
    assert VLLM.flag("max-num-seqs.x") is None
    assert VLLM.flag("tensor-paralel-size") is None


@pytest.mark.parametrize("version", engines.versions("vllm"))
def test_renamed_and_removed_point_at_what_exists(version: str) -> None:
    engine = engines.find("vllm", version)
    assert engine.renamed["tp"] == "tensor-parallel-size"
    assert engine.renamed["vllm:gpu_cache_usage_perc"] == "vllm:kv_cache_usage_perc"
    assert engines.RENAMED.items() <= engine.renamed.items()
    assert engine.removed == engines.REMOVED
    for old, new in engine.renamed.items():
        assert engine.flag(old) is None
        assert engine.flag(new) or engine.metric(new)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("max-model-len", "8192"),
        ("max-model-len", "16k"),
        ("max-model-len", "25.6k"),
        ("max-model-len", "1M"),
        ("max-model-len", "auto"),
        ("max-num-batched-tokens", "8K"),
        ("max-num-seqs", "64"),
        ("gpu-memory-utilization", "0.9"),
        ("enable-lora", "true"),
        ("max-lora-rank", "64"),
        ("moe-backend", "Deep-Gemm"),
        ("quantization", ""),
        ("tokenizer", "None"),
        ("compilation-config", '{"max_cudagraph_capture_size": 1k}'),
        ("hf-overrides", "package.function"),
        ("hf-overrides", '{"rope_theta": 1}'),
        ("chat-template", "{{ messages }}"),
    ],
)
def test_values_that_the_engine_takes(flag: str, text: str) -> None:
    assert VLLM.flags[flag].check(text) == ""


@pytest.mark.parametrize(
    ("flag", "text", "why"),
    [
        ("max-model-len", "16 k", "'16 k' is not a whole number such as 8192, 8k (8000) or 8K (8192), or auto"),
        ("max-model-len", "1.5K", "'1.5K' is not a whole number such as 8192, 8k (8000) or 8K (8192), or auto"),
        ("max-num-batched-tokens", "auto", "'auto' is not a whole number such as 8192, 8k (8000) or 8K (8192)"),
        ("max-num-seqs", "8k", "'8k' is not a whole number"),
        ("gpu-memory-utilization", "90%", "'90%' is not a number"),
        ("enable-lora", "yes", "'yes' is not true or false"),
        ("max-lora-rank", "24", "'24' is not one of 1, 8, 16, 32, 64, 128, 256, 320, 512"),
        ("compilation-config", "{mode: 3}", "'{mode: 3}' is not JSON"),
        ("hf-overrides", "{a}", "'{a}' is not JSON, although it starts like it"),
    ],
)
def test_values_that_it_does_not_take(flag: str, text: str, why: str) -> None:
    assert VLLM.flags[flag].check(text) == why


def test_human_int() -> None:
    numbers = {"8192": 8192, "16k": 16_000, "16K": 16_384, "25.6k": 25_600, "-1": -1}
    assert {text: engines.human_int(text) for text in numbers} == numbers


def test_metrics_by_series() -> None:
    assert VLLM.metric("vllm:prompt_tokens_total").name == "vllm:prompt_tokens"
    assert VLLM.metric("vllm:time_to_first_token_seconds_bucket").name == "vllm:time_to_first_token_seconds"
    assert VLLM.metric("vllm:iteration_tokens_total").series[0] == "vllm:iteration_tokens_total_bucket"
    assert VLLM.metric("vllm:gpu_cache_usage_perc") is None
    assert VLLM.metrics["vllm:lora_requests_info"].when == "vllm_config.lora_config is not None"
    assert "max_lora" in VLLM.metrics["vllm:lora_requests_info"].labels
