"""Plan -> what Prometheus scrapes and when it calls somebody: PodMonitor and PrometheusRule.

Objectives become error budgets: an alert says how fast the budget burns, not that a percentile moved. Slow answers are
counted by the engine's histogram, whose boundaries are fixed, so an objective is measured at the nearest one at or above it.
Every query is about one service; without traffic, and scaled to zero, each of them is empty: no NaN, no alert.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from aibrix_compile.artifact import Artifact, Object, Source
from aibrix_compile.backends.objects import SERVE, artifact, metadata, scraped, selector
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import MonitoringPlan, Objective, PoolPlan, ServicePlan

_MONITORING: Path = ("spec", "monitoring")
_SLO: Path = ("spec", "slo")
_PAGE, _TICKET = "page", "ticket"

SEEN, SLOW, RATIO = "aibrix:objective_seen:rate5m", "aibrix:objective_slow:rate5m", "aibrix:objective_slow:ratio"
"""Recorded: all answers a second, the slow ones, and their share; RATIO is followed by its window."""

_UNWANTED = ("python_gc_.*", ".*_created", "vllm:lora_requests_info")
"""Dropped: what nobody asks for, a second series for each counter, and one series for each set of adapters in use."""

_LATENCY = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
BOUNDARIES = {
    "ttft": ("time_to_first_token", (*_TTFT, 160.0, 640.0, 2560.0)),
    "itl": ("inter_token_latency", _ITL),
    "e2e": ("request_latency", (*_LATENCY, 960.0, 1920.0, 7680.0)),
}
"""Family and boundaries in seconds of vLLM's histograms: vllm/v1/metrics/buckets.py of 0.32.0 and 0.33.0."""
_CUSTOM = "--custom-histogram-buckets="

_TITLES = {"ttft": "time to first token", "itl": "time between tokens", "e2e": "time to the whole answer"}
_ADVICE = {
    "ttft": "Prompts wait or prefill is slow: look at waiting requests and queue time first; if they grew, add replicas "
    "or lower the load; if not, prompts have become longer or fewer of them hit the prefix cache.",
    "itl": "Replicas decode too many sequences at once or preempt: look at running requests, KV cache and preemptions; "
    "add replicas, or lower max-num-seqs.",
    "e2e": "Look which part grew: time to first token (queue, prefill) or time between tokens (decode). If neither did, "
    "answers have become longer.",
}


@dataclass(frozen=True, slots=True)
class _Window:
    """Google's multi-window burn rates: `factor` times the budget's even pace, over a long and a short window."""

    long: str
    short: str
    factor: float
    hold: str
    severity: str
    seconds: int


_WINDOWS = (
    _Window("1h", "5m", 14.4, "2m", _PAGE, 3600),
    _Window("6h", "30m", 6, "15m", _PAGE, 6 * 3600),
    _Window("3d", "6h", 1, "1h", _TICKET, 3 * 86400),
)
_HIGHEST = 0.9
"""No threshold is above this share: a wide budget (p50, p90) can not burn 14.4 times as fast as it may."""
_ENOUGH = 10
"""Slow answers in the long window below which no alert fires: at night one slow request is a share of 100 %."""

_Rule = tuple[Object, Path]
"""A rule and the spec path that it came from."""


def emit(service: ServicePlan) -> list[Artifact]:
    """The PodMonitor and the rules, as far as they are wanted."""
    wanted = service.monitoring
    if wanted is None:
        return []
    folder, found = f"{service.environment}/{service.name}", []
    if wanted.pod_monitor:
        source = Source(service.name, (*_MONITORING, "podMonitor"))
        found.append(artifact(folder, _pod_monitor(service), {(): source}))
    if wanted.alerts:
        found.append(_prometheus_rule(folder, service, wanted))
    return found


def _pod_monitor(service: ServicePlan) -> Object:
    names = {"service": "label_serving_aibrix_ai_service", "pool": "label_serving_aibrix_ai_pool", "pod": "name"}
    unwanted = [{"action": "drop", "sourceLabels": ["__name__"], "regex": "|".join(_UNWANTED)}]
    # the sidecar passes the engine's series on, and adds its own
    endpoint = {**scraped("runtime" if service.runtime else "http", names), "metricRelabelings": unwanted}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(service, service.name, (*_MONITORING, "podMonitor")),
        "spec": {
            "selector": {"matchLabels": selector(service, role=SERVE)},
            "podMetricsEndpoints": [endpoint],
        },
    }


def _prometheus_rule(folder: str, service: ServicePlan, wanted: MonitoringPlan) -> Artifact:
    groups = {
        "objectives": list(_objectives(service, wanted)),
        "replicas": [*_availability(service), *_saturation(service, wanted)],
        "scaling": list(_scaling(service)),
    }
    filled = {name: rules for name, rules in groups.items() if rules}
    sources: dict[Path, Source] = {(): Source(service.name, (*_MONITORING, "alerts"))}
    for number, rules in enumerate(filled.values()):
        for index, (_, path) in enumerate(rules):
            sources[("spec", "groups", number, "rules", index)] = Source(service.name, path)
    value = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata(service, service.name, (*_MONITORING, "alerts")),
        "spec": {
            "groups": [
                {"name": f"{service.namespace}.{service.name}.{name}", "rules": [rule for rule, _ in rules]}
                for name, rules in filled.items()
            ]
        },
    }
    return artifact(folder, value, sources)


# --- objectives


def boundary(service: ServicePlan, one: Objective) -> float:
    """The histogram's boundary at which the objective is measured: the next at or above it, else the last."""
    family, known = BOUNDARIES[one.metric]
    for argument in service.pools[0].arguments if service.pools else ():
        if argument.text.startswith(_CUSTOM):
            known = tuple(map(float, json.loads(argument.text.removeprefix(_CUSTOM)).get(family, known)))
    return next((bound for bound in known if bound >= one.seconds), known[-1])


def _objectives(service: ServicePlan, wanted: MonitoringPlan) -> Iterator[_Rule]:
    known = [one for one in wanted.objectives if one.metric in wanted.metrics]
    for one in known:
        yield from _recorded(service, one, wanted.metrics[one.metric])
    if known:  # one for all objectives, which their labels keep apart
        chosen = _matchers(service)
        yield _record(f"{RATIO}5m", f"{SLOW}{{{chosen}}} / ({SEEN}{{{chosen}}} > 0)", {}, _SLO)
        for window in ("30m", "1h", "6h", "3d"):
            slow, seen = (f"avg_over_time({name}{{{chosen}}}[{window}])" for name in (SLOW, SEEN))
            yield _record(f"{RATIO}{window}", f"{slow}\n/\n({seen} > 0)", {}, _SLO)
    for one in known:
        yield from _burning(service, one)
        yield _blind(service, one, wanted.metrics[one.metric])


def _recorded(service: ServicePlan, one: Objective, histogram: str) -> Iterator[_Rule]:
    chosen, labels = _matchers(service), _labels(service) | _named(one)
    count = f"sum(rate({histogram}_count{{{chosen}}}[5m]))"
    quick = f'sum(rate({histogram}_bucket{{{chosen},le="{boundary(service, one)}"}}[5m]))'
    yield _record(SEEN, count, labels, _path(one))
    yield _record(SLOW, f"{count}\n-\n{quick}", labels, _path(one))


def _burning(service: ServicePlan, one: Objective) -> Iterator[_Rule]:
    chosen, bound, budget = _matchers(service, **_named(one)), boundary(service, one), 1 - one.percentile
    what = "tokens" if one.metric == "itl" else "answers"
    measured = (
        "" if bound == one.seconds else f" (measured at {_seconds(bound)}, the engine's nearest histogram boundary)"
    )
    reached = 2.0
    for window in _WINDOWS:
        threshold = round(min(window.factor * budget, _HIGHEST), 6)
        if threshold >= reached:
            continue  # as high as the window before, which is the faster one
        reached = threshold
        pace = f"burns {threshold / budget:.3g} times as fast as it may" if window.factor > 1 else "will be used up"
        yield _alert(
            service,
            "ModelServiceObjectiveBurning",
            f"{RATIO}{window.long}{{{chosen}}} > {threshold:g}\n"
            f"and\n{RATIO}{window.short}{{{chosen}}} > {threshold:g}\n"
            f"and\n300 * sum_over_time({SLOW}{{{chosen}}}[{window.long}:5m]) >= {_ENOUGH}",
            window.hold,
            window.severity,
            f"{service.name}: {_goal(one)} is missed, its error budget {pace}",
            f"{{{{ $value | humanizePercentage }}}} of all {what} of the last {window.long} took longer than "
            f"{_seconds(one.seconds)}{measured}; {budget * 100:.3g}% may. {_ADVICE[one.metric]}",
            _path(one),
            _named(one) | {"window": window.long},
        )


def _blind(service: ServicePlan, one: Objective, histogram: str) -> _Rule:
    chosen = _matchers(service, **_named(one))
    return _alert(
        service,
        "ModelServiceObjectiveBlind",
        f"{SEEN}{{{chosen}}} > 0\nunless\n{SLOW}{{{chosen}}}",
        "15m",
        _TICKET,
        f"{service.name}: {_goal(one)} can not be judged",
        f'{histogram}_bucket has no boundary le="{boundary(service, one)}". Does something rewrite or drop labels between the '
        "engine and Prometheus, or does the pod template set other buckets? Nobody is told of slow answers until this is "
        "mended.",
        _path(one),
        _named(one),
    )


def _percentile(one: Objective) -> str:
    return f"p{one.percentile * 100:g}"


def _named(one: Objective) -> dict[str, str]:
    return {"objective": f"{one.metric}-{_percentile(one)}"}


def _path(one: Objective) -> Path:
    return (*_SLO, one.metric, _percentile(one))


def _goal(one: Objective) -> str:
    return f"{_TITLES[one.metric]} {_percentile(one)} {_seconds(one.seconds)}"


def _seconds(value: float) -> str:
    return f"{value * 1000:g}ms" if value < 1 else f"{value:g}s"


# --- replicas


def _availability(service: ServicePlan) -> Iterator[_Rule]:
    chosen = _matchers(service)
    pods = f"kubectl -n {service.namespace} get pods -l {_pairs(selector(service))}"
    start = max(pool.startup_seconds for pool in service.pools)
    always = [pool for pool in service.pools if _least(pool)]
    if always:
        yield _alert(
            service,
            "ModelServiceAbsent",
            f"absent(up{{{chosen}}})",
            "10m",
            _PAGE,
            f"{service.name} has no replica that Prometheus could ask",
            f"There should always be {sum(map(_least, always))} or more. `{pods}`: none - was the workload deleted or scaled "
            "to zero by hand? Pending - is a node with free GPUs there? Running - does Prometheus select the PodMonitor "
            f"{service.name} (its podMonitorSelector), and may it reach port http?",
            (*always[0].path, "replicas"),
        )
    yield _alert(
        service,
        "ModelServiceDown",
        f"sum(up{{{chosen}}}) == 0",
        _minutes(start + 120),
        _PAGE,
        f"{service.name}: no replica answers",
        f"None has reported metrics for longer than a start takes ({_minutes(start)}). `{pods}`: restarts - "
        "read `kubectl logs --previous`, the engine's last lines say why; not ready - weights that do not arrive, "
        "memory of the GPU; ready - may Prometheus reach port http? If a change was synced lately, revert it in Git.",
        ("metadata", "name"),
    )
    for pool in always:
        path: Path = (*pool.path, "replicas")
        of_pool = _matchers(service, pool=pool.name)
        yield _alert(
            service,
            "ModelServiceReplicasMissing",
            f"(sum(up{{{of_pool}}}) or vector(0)) < {_least(pool)}",
            _minutes(pool.startup_seconds * _steps(pool) + 600),
            _TICKET,
            f"{service.name}: pool {pool.name} has {{{{ $value }}}} of {_least(pool)} replicas",
            f"For longer than a rollout of {pool.workload} takes. `kubectl -n {service.namespace} get pods -l "
            f"{_pairs(selector(service, pool.name))}`: Pending pods lack GPUs (quota, nodes, spot capacity), others say "
            "in their events or logs what is wrong.",
            path,
            {"pool": pool.name},
        )
    yield _alert(
        service,
        "ModelServiceReplicaUnstable",
        f"changes(up{{{chosen}}}[1h]) >= 6",
        "5m",
        _TICKET,
        f"{service.name}: replica {{{{ $labels.pod }}}} comes and goes",
        f"It went away or came back {{{{ $value }}}} times in an hour: the engine restarts, or it is too busy to answer within "
        f"10 s. `kubectl -n {service.namespace} describe pod {{{{ $labels.pod }}}}` shows restarts and their reason (OOMKilled: "
        "more memory; liveness: the engine hung).",
        ("metadata", "name"),
    )


def _saturation(service: ServicePlan, wanted: MonitoringPlan) -> Iterator[_Rule]:
    chosen, names = _matchers(service), wanted.metrics
    if {"running", "prompt_tokens", "generation_tokens"} <= names.keys():
        rates = " + ".join(
            f"sum by (pool, pod) (rate({_counter(names[role])}{{{chosen}}}[10m]))"
            for role in ("prompt_tokens", "generation_tokens")
        )
        yield _alert(
            service,
            "ModelServiceReplicaStuck",
            f"sum by (pool, pod) (min_over_time({names['running']}{{{chosen}}}[10m])) > 0\nand\n{rates} == 0",
            "5m",
            _PAGE,
            f"{service.name}: replica {{{{ $labels.pod }}}} holds requests and produces nothing",
            f"{{{{ $value }}}} requests run there and not one token came in 10 minutes, yet it counts as ready and is sent "
            "more: most often a hung collective or GPU. Keep its logs, then "
            f"`kubectl -n {service.namespace} delete pod {{{{ $labels.pod }}}}`; drain the node if it happens there again.",
            ("metadata", "name"),
        )
    if "waiting" in names:
        yield _alert(
            service,
            "ModelServiceQueueing",
            f"sum({names['waiting']}{{{chosen}}}) > 0",
            "15m",
            _TICKET,
            f"{service.name}: requests have been queueing for 15 minutes",
            "{{ $value }} requests wait for a place in a batch: there is more load than these replicas can take. Add replicas "
            "(or raise the scaler's maximum), or find out who sends so much.",
            ("spec", "pools"),
        )
    if {"kv_usage", "preemptions"} <= names.keys():
        yield _alert(
            service,
            "ModelServiceKVCacheFull",
            "count by (pool) (\n"
            f"  max by (pool, pod) (max_over_time({names['kv_usage']}{{{chosen}}}[10m])) > 0.9\n"
            "  and\n"
            f"  sum by (pool, pod) (rate({_counter(names['preemptions'])}{{{chosen}}}[10m])) > 0\n"
            ")",
            "15m",
            _TICKET,
            f"{service.name}: the KV cache of pool {{{{ $labels.pool }}}} is full and requests are preempted",
            "{{ $value }} replicas throw away work that they have done and do it again later. Add replicas, lower "
            "max-num-seqs, lower maxModelLen if requests need less, or take an accelerator with more memory.",
            ("spec", "engine", "maxModelLen"),
        )


# --- scaling


def _scaling(service: ServicePlan) -> Iterator[_Rule]:
    """By what the scaler tells of itself. An HorizontalPodAutoscaler is watched by the rules of kube-prometheus (KubeHpaMaxedOut)."""
    if service.scaling is None or service.scaling.strategy == "hpa":
        return
    chosen, path = _matchers(service), ("spec", "scaling")
    policy = f"kubectl -n {service.namespace} describe scalingpolicy {service.name}"
    yield _alert(
        service,
        "ModelServiceNotScaled",
        f"absent(scaler_wanted{{{chosen}}})",
        "10m",
        _TICKET,
        f"{service.name}: no scaler decides how many replicas there are",
        f"The number stays as it is. `kubectl -n {service.namespace} get pods -l serving.aibrix.ai/controller=scaler`: none - was "
        "`aibrix-compile platform` applied with images.controllers set? Running - do its logs say that it leads, may it read "
        f"scalingpolicies, and does Prometheus scrape it? `{policy}` shows what it last thought.",
        path,
    )
    yield _alert(
        service,
        "ModelServiceWantsMore",
        f"max(scaler_limited{{{chosen}}}) > 0",
        "15m",
        _TICKET,
        f"{service.name} wants more replicas than it may have",
        f"`{policy}`: its condition Limited names the limit and what the load asks for. Raise that limit - replicas.max of a pool, or "
        "budget - if the objectives matter more than its cost; if they still hold, the target is set too low.",
        path,
    )
    yield _alert(
        service,
        "ModelServiceScalesBlind",
        f"max(scaler_missing{{{chosen}}}) > 0",
        "10m",
        _TICKET,
        f"{service.name}: the scaler lacks data and holds the number of replicas",
        f"`{policy}`: its condition Degraded says what is missing. No arrivals - are the gateway's pickers up, and may the scaler "
        "reach their port 9090? Silent replicas - may it reach port 8080 of their sidecar? Nothing is scaled down until they speak.",
        path,
    )
    yield _alert(
        service,
        "ModelServiceFlapping",
        f"max(max_over_time(scaler_flapping{{{chosen}}}[10m])) > 0",
        "20m",
        _TICKET,
        f"{service.name}: the number of replicas goes up and down and up again",
        f"Each start costs minutes of GPUs that serve nothing. `{policy}` lists the last changes with their reasons. A longer "
        "downWindow or a higher minimum steadies it; so does taking a hand, a script or a second scaler off the number.",
        path,
    )


def _least(pool: PoolPlan) -> int:
    """Replicas that are always wanted."""
    return pool.replicas if pool.bounds is None else pool.bounds.low


def _steps(pool: PoolPlan) -> int:
    """How many starts one after the other a rollout takes during which replicas may be missing."""
    away = pool.rollout.max_unavailable
    share = math.floor(_least(pool) * float(away.rstrip("%")) / 100) if isinstance(away, str) else away
    return math.ceil(_least(pool) / share) if share else 1


def _alert(
    service: ServicePlan,
    name: str,
    expression: str,
    hold: str,
    severity: str,
    summary: str,
    description: str,
    path: Path,
    labels: dict[str, str] | None = None,
) -> _Rule:
    topic = ".".join(map(str, path)) if path[0] == "metadata" else _spec_path(path[1:])
    return {
        "alert": name,
        "expr": f"{expression}\n",  # a block of its own in the YAML
        "for": hold,
        "labels": _labels(service) | (labels or {}) | {"severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook": f"aibrix-compile explain {shlex.quote(service.file)} {shlex.quote(topic)}",
        },
    }, path


def _record(name: str, expression: str, labels: dict[str, str], path: Path) -> _Rule:
    return {"record": name, "expr": f"{expression}\n", **({"labels": labels} if labels else {})}, path


def _spec_path(path: Path) -> str:
    """As `explain` reads it; keys with dots stand in brackets."""
    text = ""
    for step in path:
        dotted = f'["{step}"]' if isinstance(step, str) and "." in step else f".{step}"
        text += f"[{step}]" if isinstance(step, int) else dotted
    return text.removeprefix(".")


def _labels(service: ServicePlan) -> dict[str, str]:
    return {"namespace": service.namespace, "environment": service.environment, "service": service.name}


def _matchers(service: ServicePlan, **more: str) -> str:
    wanted = {"namespace": service.namespace, "service": service.name, **more}
    return ",".join(f'{label}="{value}"' for label, value in wanted.items())


def _pairs(labels: dict[str, str]) -> str:
    return ",".join(f"{label}={value}" for label, value in labels.items())


def _counter(name: str) -> str:
    """The series of a counter's family: the client library adds `_total`."""
    return f"{name.removesuffix('_total')}_total"


def _minutes(seconds: int) -> str:
    return f"{math.ceil(seconds / 60)}m"
