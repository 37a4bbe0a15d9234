"""Plan -> the service's Grafana dashboard, in a ConfigMap that Grafana's sidecar loads.

From what a user feels (latency) to why (load, KV cache) to what there is (replicas).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aibrix_compile.artifact import Artifact, Source
from aibrix_compile.backends.grafana import LABEL, Json, Row, Target, document, graph, uid_of, variable
from aibrix_compile.backends.objects import artifact, metadata
from aibrix_compile.diagnostics import Path
from aibrix_compile.emit import json_text
from aibrix_compile.plan import MonitoringPlan, Objective, ServicePlan

_DASHBOARD: Path = ("spec", "monitoring", "dashboard")
_BURNT = "aibrix:objective_slow:ratio1h"
"""The share of slow answers that the alert rules record."""
_QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


def emit(service: ServicePlan) -> list[Artifact]:
    """The dashboard, if it is wanted."""
    wanted = service.monitoring
    if wanted is None or not wanted.dashboard:
        return []
    name = uid(service)
    meta = metadata(service, f"{service.name}-dashboard", _DASHBOARD)
    meta["labels"] = meta["labels"] | LABEL
    data = {f"{name}.json": json_text(_dashboard(service, wanted, name))}
    value = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
    return [artifact(f"{service.environment}/{service.name}", value, {(): Source(service.name, _DASHBOARD)})]


def uid(service: ServicePlan) -> str:
    """The dashboard's, by which links find it."""
    return uid_of(service.environment, service.namespace, service.name)


def _dashboard(service: ServicePlan, wanted: MonitoringPlan, name: str) -> Json:
    about = f"{service.served_name} on {service.engine} {service.engine_version}. Written by aibrix-compile from {service.file}."
    tags = ["aibrix", service.environment, service.name]
    pools = variable("pool", "Pool", f"up{{{_of(service)}}}")
    title = f"{service.name} ({service.environment})"
    return document(name, title, about, tags, [pools], _rows(service, wanted))


def _rows(service: ServicePlan, wanted: MonitoringPlan) -> Iterator[Row]:
    rows = {
        "Latency": [*_latency(service, wanted), *_burn(service, wanted)],
        "Load": list(_load(service, wanted.metrics)),
        "KV cache and prefixes": list(_cache(service, wanted.metrics)),
        "Replicas": list(_replicas(service)),
    }
    return ((title, panels) for title, panels in rows.items() if panels)


def _latency(service: ServicePlan, wanted: MonitoringPlan) -> Iterator[Json]:
    about = {
        "ttft": (
            "Time to first token",
            "From a request's arrival at the engine to its first token: queue and prefill.",
        ),
        "itl": ("Time between tokens", "Gap between two tokens of an answer: how fast it streams."),
        "e2e": (
            "Whole answer",
            "From a request's arrival at the engine to its last token; grows with the answer's length.",
        ),
    }
    for metric, (title, what) in about.items():
        if metric in wanted.metrics:
            goals = [one for one in wanted.objectives if one.metric == metric]
            lines = _quantiles(service, wanted.metrics[metric]) + list(map(_goal, goals))
            note = " Dashed: the objectives of spec.slo." if goals else " No objective is set for it in spec.slo."
            yield graph(title, f"{what} Estimated from histogram buckets.{note}", lines, "s")


def _quantiles(service: ServicePlan, histogram: str) -> list[Target]:
    rate = f"sum by (le) (rate({histogram}_bucket{{{_chosen(service)}}}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {rate})", name) for name, share in _QUANTILES]


def _goal(one: Objective) -> Target:
    return f"vector({one.seconds:g})", f"objective p{one.percentile * 100:g}"


def _burn(service: ServicePlan, wanted: MonitoringPlan) -> Iterator[Json]:
    if wanted.alerts and wanted.objectives:
        lines = [
            (f'{_BURNT}{{{_of(service)},objective="{_short(one)}"}} / {1 - one.percentile:.6g}', _short(one))
            for one in wanted.objectives
        ]
        what = (
            "How many times faster than it may the error budget was used up in the last hour, all pools: 1 uses it up exactly. "
            "From 14.4 on somebody is paged at once."
        )
        yield graph("Error budget burn rate", what, [*lines, ("vector(1)", "objective: budget just kept")], "none")


def _short(one: Objective) -> str:
    return f"{one.metric}-p{one.percentile * 100:g}"


def _load(service: ServicePlan, names: Mapping[str, str]) -> Iterator[Json]:
    chosen = _chosen(service)
    lines = [(f"sum({names[role]}{{{chosen}}})", role) for role in ("running", "waiting") if role in names]
    if lines:
        what = "Requests in a batch now, and requests that wait for a place in one. Waiting for minutes: more load than capacity."
        yield graph("Requests running and waiting", what, lines, "short")
    if "success" in names:
        rate = f"sum by (finished_reason) (rate({_counter(names['success'])}{{{chosen}}}[$__rate_interval]))"
        what = (
            "Finished requests by why they ended: stop (done), length (cut off), abort (the client left), error (ours)."
        )
        yield graph("Requests by end", what, [(rate, "{{finished_reason}}")], "reqps", stacked=True)
    tokens = [
        (f"sum(rate({_counter(names[role])}{{{chosen}}}[$__rate_interval]))", legend)
        for role, legend in (("prompt_tokens", "prompt"), ("generation_tokens", "generated"))
        if role in names
    ]
    if tokens:
        yield graph("Tokens per second", "Prompt tokens taken in and tokens generated.", tokens, "short")
    if "queue_time" in names:
        what = "How long requests waited for a place in a batch. Part of the time to first token."
        yield graph("Time in queue", what, _quantiles(service, names["queue_time"]), "s")


def _cache(service: ServicePlan, names: Mapping[str, str]) -> Iterator[Json]:
    chosen = _chosen(service)
    if "kv_usage" in names:
        lines = [
            (f"{how} by (pool) ({names['kv_usage']}{{{chosen}}})", f"{{{{pool}}}} {legend}")
            for how, legend in (("max", "fullest"), ("avg", "mean"))
        ]
        what = "Share of the KV cache in use: the fullest replica and the mean of each pool. Near 100 % requests are preempted."
        yield graph("KV cache", what, lines, "percentunit", top=1)
    if {"prefix_hits", "prefix_queries"} <= names.keys():
        hits, queries = (
            f"sum by (pool) (rate({_counter(names[role])}{{{chosen}}}[$__rate_interval]))"
            for role in ("prefix_hits", "prefix_queries")
        )
        what = "Share of prompt tokens whose KV blocks were there already, so that nobody had to compute them."
        yield graph("Prefix cache hits", what, [(f"{hits} / ({queries} > 0)", "{{pool}}")], "percentunit", top=1)
    if "preemptions" in names:
        rate = f"sum by (pool) (rate({_counter(names['preemptions'])}{{{chosen}}}[$__rate_interval]))"
        what = "Requests a second that lost their KV cache to others and are computed again. Should be 0."
        yield graph("Preemptions", what, [(rate, "{{pool}}")], "ops")


def _replicas(service: ServicePlan) -> Iterator[Json]:
    lines = [(f"sum by (pool) (up{{{_chosen(service)}}})", "{{pool}} reporting")]
    lines += [(f"count by (pool) (up{{{_chosen(service)}}})", "{{pool}} found")]
    for pool in service.pools:
        least = pool.replicas if pool.bounds is None else pool.bounds.low
        lines.append((f"vector({least})", f"{pool.name} {'wanted' if pool.bounds is None else 'at least'}"))
    what = "Replicas that answer Prometheus, and those that exist: a replica that loads its weights exists and does not answer."
    yield graph("Replicas by pool", what, lines, "short")


def _of(service: ServicePlan) -> str:
    return f'namespace="{service.namespace}",service="{service.name}"'


def _chosen(service: ServicePlan) -> str:
    """Of the pools that are chosen in Grafana."""
    return f'{_of(service)},pool=~"$pool"'


def _counter(name: str) -> str:
    return f"{name.removesuffix('_total')}_total"
