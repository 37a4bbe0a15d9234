"""The page has vLLM's families: names, types, labels and buckets are compared with the catalog of 0.32.0."""

from prometheus_client.parser import text_string_to_metric_families

from aibrix_compile.catalog import engines
from aibrix_compile.policy.profile import TABLE
from aibrix_mock.adapters import Adapter
from aibrix_mock.core import EngineCore, Limits, Request
from aibrix_mock.metrics import EngineMetrics, Page
from aibrix_mock.options import Settings, parse
from aibrix_mock.tokens import Answer, encode

ABSENT = (
    # families that an ordinary text model does not have: other kinds of models, caches, transports and routes
    *(
        "diffusion",
        "estimated",
        "hf3fs",
        "hisparse",
        "kv_offload",
        "mooncake",
        "nixl",
        "rl_weight",
        "simple_kv_offload",
    ),
    *("sleep_mode", "spec_decode", "tool_call_parser", "websocket"),
)
LIMITS = Limits(4096, 8, 512, 16, 1000, max_loras=2, max_cpu_loras=2)


def page(core: EngineCore, lora: bool = True) -> str:
    labels = parse([], Settings(TABLE["h100/8b"])).cache_labels
    return Page(EngineMetrics(core, "base", labels, lora)).text().decode()


def test_the_families_are_those_of_the_catalog() -> None:
    engine = engines.find("vllm", "0.32.0")
    assert engine
    families = {f.name: f for f in text_string_to_metric_families(page(_busy())) if f.name.startswith("vllm:")}
    families = {name: f for name, f in families.items() if not name.endswith("_created")}
    known = {name.removesuffix("_total") if m.type == "counter" else name: m for name, m in engine.metrics.items()}
    wanted = {n for n, m in known.items() if not m.when and not n.removeprefix("vllm:").startswith(ABSENT)}
    assert families.keys() - {"vllm:lora_requests_info"} == wanted
    for name, family in families.items():
        metric = known[name]
        assert family.type == metric.type, name
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        assert not metric.labels or labels == set(metric.labels), name
        assert family.samples, name
    cache = families["vllm:cache_config_info"].samples[0].labels
    assert {"block_size", "num_gpu_blocks", "enable_prefix_caching", "gpu_memory_utilization", "engine"} <= cache.keys()


def test_the_buckets_are_vllm_s() -> None:
    text = page(_busy())

    def bounds(name: str) -> list[str]:
        rows = (row for row in text.splitlines() if row.startswith(f"vllm:{name}_bucket"))
        return [row.partition('le="')[2].partition('"')[0] for row in rows]

    assert bounds("time_to_first_token_seconds")[:4] == ["0.001", "0.005", "0.01", "0.02"]
    assert bounds("time_to_first_token_seconds")[-2:] == ["2560.0", "+Inf"]
    assert bounds("inter_token_latency_seconds")[0] == "0.01" and len(bounds("inter_token_latency_seconds")) == 20
    assert bounds("e2e_request_latency_seconds")[-2] == "7680.0" and len(bounds("e2e_request_latency_seconds")) == 22
    assert bounds("iteration_tokens_total") == [f"{float(2**n)}" for n in (0, *range(3, 15))] + ["+Inf"]
    assert bounds("request_prompt_tokens")[-2] == "2000.0"  # 1, 2, 5 ... up to the context of 4096


def test_a_histogram_adds_up() -> None:
    families = {f.name: f for f in text_string_to_metric_families(page(_busy()))}
    for name, count in (("vllm:e2e_request_latency_seconds", 3), ("vllm:inter_token_latency_seconds", 9)):
        samples = {s.name + s.labels.get("le", ""): s.value for s in families[name].samples}
        assert samples[f"{name}_bucket+Inf"] == samples[f"{name}_count"] == count
        assert samples[f"{name}_sum"] > 0
    assert families["vllm:generation_tokens"].samples[0].value == 12
    assert families["vllm:num_requests_waiting"].samples[0].value == 1
    row = families["vllm:lora_requests_info"].samples[0].labels
    assert row == {"max_lora": "2", "running_lora_adapters": "fr", "waiting_lora_adapters": "fr"}


def test_without_adapters_there_is_no_gauge_of_them() -> None:
    assert "lora_requests_info" not in page(_busy(), lora=False)
    assert "process_resident_memory_bytes" in page(_busy(), lora=False)


def _busy() -> EngineCore:
    """Three requests have been answered; a fourth, of an adapter, has just come."""
    core = EngineCore(TABLE["h100/8b"], LIMITS)
    for name in ("one", "two", "three"):
        prompt = encode(name * 40)
        core.add(Request(name, prompt, Answer(0, prompt), 4, max_tokens=4), 0.0)
    while core.unfinished:
        core.begin(core.now)
        core.finish()
    core.add(Request("four", encode("four"), Answer(0, b""), 1, "stop", Adapter("fr", "/fr")), core.now)
    return core
