"""Documents of a simulation as `study.document` gives them, small, with one spike and two decisions."""

from typing import Any

LATENCY = {"mean": 0.4, "p50": 0.2, "p90": 0.5, "p95": 0.8, "p99": 3.0, "max": 5.0}


def objective(metric: str = "ttft", used: float = 0.5, percentile: float = 0.99) -> dict[str, Any]:
    """With a limit of 2 s."""
    share = 1 - used * (1 - percentile)
    measured = 1.5 if used <= 1 else 3.0
    names = {"metric": metric, "percentile": percentile, "limit": 2.0, "measured": measured}
    return {**names, "good_share": share, "budget_used": used}


def score(*objectives: dict[str, Any], **changes: Any) -> dict[str, Any]:
    pool = {
        "name": "l4",
        "profile": "l4/8b",
        "source": "data sheet",
        "error": "expect 30 %",
        "gpus_per_replica": 1,
        "replicas_mean": 2.5,
        "replicas_max": 3,
        "gpu_hours": 0.5,
        "cost": 1.2,
        "busy_share": 0.8,
    }
    return {
        "requests": 1000,
        "answered": 1000,
        "refused": 0,
        "unserved": 0,
        "seconds": 1198.0,
        "ttft": LATENCY,
        "itl": {key: value / 10 for key, value in LATENCY.items()},
        "e2e": {key: value * 10 for key, value in LATENCY.items()},
        "objectives": list(objectives),
        "pools": [pool],
        "gpu_hours": 0.5,
        "cost": 1.2,
        "cost_per_month": 2630.0,
        "currency": "USD",
        "input_tokens": 1_200_000,
        "output_tokens": 250_000,
        "tokens_per_currency_unit": 1_208_333.0,
        "output_tokens_per_gpu_second": 138.9,
        "prefix_hit_share": 0.25,
        "kv_mean_share": 0.3,
        "kv_peak_share": 0.97,
        "preemptions": 3,
        "imbalance": 1.1,
        "degraded": 0,
        "adapter_loads": 4,
        "scalings": 2,
        **changes,
    }


def variant(name: str = "chat", of: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """300 rows of 4 s. TTFT p99 is 1 s, and 5 s to 9 s from row 100 to row 109; row 50 has no request."""
    count = range(300)
    spike = [5.0 + (index - 100) % 5 if 100 <= index < 110 else 1.0 for index in count]
    ttft: list[float | None] = list(spike)
    ttft[50] = None
    lower: list[float | None] = [None if value is None else value / 2 for value in ttft]
    ready = [2.0 if index < 105 else 3.0 for index in count]
    series: dict[str, Any] = {
        "ready": ready,
        "starting": [1.0 if 101 <= index < 105 else 0.0 for index in count],
        "running": [10.0] * 300,
        "waiting": [40.0 if value > 2 else 0.0 for value in spike],
        "held": [0.0] * 300,
        "kv_share": [0.9 if value > 2 else 0.25 for value in spike],
        "adapters": [2.0] * 300,
        "requests_per_second": [3.0 if value > 2 else 0.8 for value in spike],
        "failed_per_second": [0.0] * 300,
        "prefix_hit_share": [0.25 if value is not None else None for value in ttft],
        "replicas": {"l4": [2.0 if index < 101 else 3.0 for index in count]},
        "cost_per_hour": [1.44 if index < 101 else 2.16 for index in count],
    }
    for metric in ("ttft", "e2e", "tpot"):
        series |= {f"{metric}_p99": ttft, f"{metric}_p95": lower, f"{metric}_p50": lower}
    decisions = [
        {"second": 404.0, "pool": "l4", "from": 2, "to": 3, "reason": "12 in flight, 8 each wanted"},
        {"second": 1100.0, "pool": "l4", "from": 3, "to": 2, "reason": "quiet for 5 min"},
    ]
    return {
        "name": name,
        "score": score(objective()) if of is None else of,
        "skipped": {},
        "seconds": [4.0 * index for index in count],
        "series": series,
        "balance": [{"replica": f"l4-{n}", "requests": 300 + 40 * n, "hit_tokens": 100 * n} for n in range(3)],
        "decisions": decisions,
        **changes,
    }


def document(*variants: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "format": "aibrix-compile/simulation/1",
        "service": "chat",
        "environment": "prod",
        "trace": {"name": "day.csv.gz", "rate": 1.5, "limit": 1000},
        "seed": 7,
        "routing": "least-request",
        "scaling": "slo",
        "budget_per_hour": 12.0,
        "notes": ["pool l4: engine times by profile l4/8b"],
        "variants": list(variants) or [variant()],
        **changes,
    }
