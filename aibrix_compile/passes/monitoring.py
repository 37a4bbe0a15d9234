"""Monitoring: what is watched, under the metric names of the engine version that runs."""

from collections.abc import Iterator

from aibrix_compile.diagnostics import Path, Problem
from aibrix_compile.passes.draft import Draft
from aibrix_compile.plan import MonitoringPlan

OPERATOR = "monitoring.coreos.com/v1"
_PATH: Path = ("spec", "monitoring")

ROLES = {  # role -> the series or family that plays it; every version of the catalog has them (tested)
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
    "queue_time": "vllm:request_queue_time_seconds",
    "success": "vllm:request_success_total",
    "preemptions": "vllm:num_preemptions_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    "prefix_queries": "vllm:prefix_cache_queries_total",
}


def plan(draft: Draft) -> Iterator[Problem]:
    """PodMonitor and rules are objects of the Prometheus operator; the dashboard is a ConfigMap, and reads the same series."""
    wanted, engine = draft.spec.monitoring, draft.engine
    assert engine is not None
    for name in ("podMonitor", "alerts"):
        if getattr(wanted, name) and not draft.site.declares(OPERATOR):
            message = f"{name} needs {OPERATOR}, which environment {draft.site.environment.name} does not declare"
            yield Problem(
                "AC507",
                (*_PATH, name),
                message,
                "install the Prometheus operator and add it to apis of the environment",
            )
    for name in ("alerts", "dashboard"):
        if getattr(wanted, name) and not wanted.podMonitor:
            message = f"the queries of {name} rely on labels that only our PodMonitor sets"
            yield Problem("AC223", (*_PATH, name), message, "add podMonitor: true", at_key=True)
    if wanted.podMonitor or wanted.alerts or wanted.dashboard:
        metrics = {role: name for role, name in ROLES.items() if engine.metric(name) is not None}
        draft.monitoring = MonitoringPlan(wanted.podMonitor, wanted.alerts, wanted.dashboard, draft.objectives, metrics)
