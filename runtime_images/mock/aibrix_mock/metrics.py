"""The engine's numbers under vLLM's names. Why it exists: a picker, a scaler and dashboards read this page, so families,
types, labels and buckets are those of vLLM 0.32 (a test compares them with the catalog). `model_name` is always the base
model's first served name; there are no series per adapter. Times are simulated seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aibrix_mock.core import EngineCore
from aibrix_mock.stats import Histogram

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HITS = ("device", "host", "disk", "p2p", "external_unspecified")
_LORA_SERIES = 200  # vLLM keeps every combination of names that there ever was; the newest do for a test


class EngineMetrics(Collector):
    def __init__(self, core: EngineCore, model: str, cache: Mapping[str, str], lora: bool) -> None:
        """`cache`: the labels of cache_config_info; `lora`: whether adapters are enabled."""
        self._core, self._cache, self._lora = core, cache, lora
        self._labels = {"model_name": model, "engine": "0"}
        self._born = time.time()
        self._seen: dict[tuple[str, str], float] = {}

    def collect(self) -> Iterator[Metric]:
        core, stats = self._core, self._core.stats
        running, deferred, waiting = len(core.running), core.deferred, len(core.waiting)
        deferred = min(deferred, waiting)
        yield self._gauge("num_requests_running", "Requests in the batch.", running)
        yield self._gauge("num_requests_waiting", "Requests that wait for a place in it.", waiting)
        reasons = {"capacity": waiting - deferred, "deferred": deferred}
        yield self._gauges(
            "num_requests_waiting_by_reason", "Waiting for capacity, or for an adapter's turn.", "reason", reasons
        )
        states = {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
        yield self._gauges("engine_sleep_state", "Always awake.", "sleep_state", states)
        yield self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", core.pool.usage)
        yield self._counter("prefix_cache_queries", "Tokens looked up in the prefix cache.", stats.prefix_queries)
        yield self._counter("prefix_cache_hits", "Tokens found in it.", stats.prefix_hits)
        for name in (
            "external_prefix_cache_queries",
            "external_prefix_cache_hits",
            "mm_cache_queries",
            "mm_cache_hits",
        ):
            yield self._counter(name, "Always 0.", 0)
        yield self._counter("num_preemptions", "Requests that gave up their blocks.", stats.preemptions)
        yield self._counter("prompt_tokens", "Prompt tokens of requests with a first token.", stats.prompt_tokens)
        sources = {
            "local_compute": stats.prompt_tokens - stats.cached_tokens,
            "local_cache_hit": stats.cached_tokens,
            "external_kv_transfer": 0,
        }
        yield self._counters("prompt_tokens_by_source", "Where their KV came from.", "source", sources)
        yield self._counter("prompt_tokens_cached", "Of them found in a cache.", stats.cached_tokens)
        tiers = dict.fromkeys(_HITS, 0) | {"device": stats.prefix_hits}
        yield self._counters("prompt_tokens_cached_by_source", "Prefix hits by tier.", "source", tiers)
        yield self._counter("generation_tokens", "Generated tokens.", stats.generated_tokens)
        yield self._counters("request_success", "Finished requests.", "finished_reason", stats.finished)
        yield self._rejections()
        for name, text, histogram in (
            ("request_prompt_tokens", "Prompt tokens of a request.", stats.prompt),
            ("request_generation_tokens", "Generated tokens of a request.", stats.generation),
            ("iteration_tokens_total", "Tokens of a step.", stats.iteration),
            ("request_max_num_generation_tokens", "Generated tokens of a request.", stats.max_generation),
            ("request_params_n", "The parameter n.", stats.choices),
            ("request_params_max_tokens", "The parameter max_tokens.", stats.max_tokens),
            ("time_to_first_token_seconds", "Arrival to first token.", stats.first_token),
            ("inter_token_latency_seconds", "Token to token.", stats.between_tokens),
            ("request_time_per_output_token_seconds", "Mean time between a request's tokens.", stats.per_token),
            ("e2e_request_latency_seconds", "Arrival to last token.", stats.whole),
            ("request_queue_time_seconds", "Arrival to first step.", stats.queued),
            ("request_inference_time_seconds", "First step to last token.", stats.inference),
            ("request_prefill_time_seconds", "First step to first token.", stats.prefill),
            ("request_decode_time_seconds", "First token to last token.", stats.decode),
            ("request_num_preemptions", "Preemptions of a request.", stats.preempted),
            ("request_prefill_kv_computed_tokens", "Prompt tokens that were not cached.", stats.computed),
        ):
            yield self._histogram(name, text, histogram)
        yield self._metric(
            "cache_config_info", "Information of the LLMEngine CacheConfig", "gauge", [("", self._cache, 1)]
        )
        if self._lora:
            yield self._adapters()

    def _adapters(self) -> Metric:
        """vLLM's gauge names an adapter as running and waiting as long as it has any request, and its value is a time."""
        names = ",".join(self._core.adapters)
        self._seen.pop((names, names), None)
        if names or self._seen:
            self._seen[names, names] = time.time()
        while len(self._seen) > _LORA_SERIES:
            del self._seen[next(iter(self._seen))]
        most = str(self._core.limits.max_loras)
        metric = Metric("vllm:lora_requests_info", "Running stats on lora requests.", "gauge")
        for (running, waiting), seen in self._seen.items():
            labels = {"max_lora": most, "waiting_lora_adapters": waiting, "running_lora_adapters": running}
            metric.add_sample(metric.name, labels, seen)
        return metric

    def _rejections(self) -> Metric:
        model = {"model_name": self._labels["model_name"]}
        rows = [("_total", model | {"reason": reason}, n) for reason, n in self._core.stats.rejected.items()]
        return self._metric("admission_rejections", "Requests refused by a queue limit.", "counter", rows)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        return self._metric(name, text, "gauge", [("", self._labels, value)])

    def _gauges(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        return self._metric(name, text, "gauge", [("", self._labels | {label: key}, n) for key, n in values.items()])

    def _counter(self, name: str, text: str, value: float) -> Metric:
        return self._metric(name, text, "counter", [("_total", self._labels, value)])

    def _counters(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        return self._metric(
            name, text, "counter", [("_total", self._labels | {label: key}, n) for key, n in values.items()]
        )

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        rows: list[tuple[str, Mapping[str, str], float]] = []
        below = 0
        for bound, count in zip((*map(float, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            below += count
            rows.append(("_bucket", self._labels | {"le": str(bound)}, below))
        rows += [("_count", self._labels, below), ("_sum", self._labels, histogram.total)]
        return self._metric(name, text, "histogram", rows)

    def _metric(self, name: str, text: str, kind: str, rows: Iterable[tuple[str, Mapping[str, str], float]]) -> Metric:
        metric, created = Metric(f"vllm:{name}", text, kind), kind != "gauge"
        for suffix, labels, value in rows:
            metric.add_sample(f"{metric.name}{suffix}", dict(labels), value)
            if created and suffix in ("_total", "_sum"):
                metric.add_sample(f"{metric.name}_created", dict(labels), self._born)
        return metric


class Page:
    def __init__(self, engine: EngineMetrics) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(engine)

    def text(self) -> bytes:
        return generate_latest(self._registry)
