"""The objects themselves: what is emitted when, names, boundaries, where each part came from."""

import dataclasses
import json
import re
import shlex
from typing import Any

import pytest
import yaml

from aibrix_compile.backends import kubernetes, monitoring
from aibrix_compile.backends.dashboards import uid
from aibrix_compile.closure import unresolved
from aibrix_compile.diagnostics import Path
from aibrix_compile.emit import yaml_text
from aibrix_compile.explain import service_path
from aibrix_compile.plan import Argument, Bounds, MonitoringPlan, Objective, Rollout, ServicePlan
from aibrix_compile.spec.decode import field_at, model_at
from aibrix_compile.spec.modelservice import ModelService
from tests.monitoring.watched import (
    ALL,
    METRICS,
    PLAIN,
    artifacts,
    compiled,
    dashboard,
    laid_out,
    objects,
    panels,
    pools,
    rules,
    service,
)


@pytest.mark.parametrize("wanted", ["pod_monitor", "alerts", "dashboard"])
def test_only_what_is_wanted(wanted: str) -> None:
    nothing = dataclasses.replace(ALL, pod_monitor=False, alerts=False, dashboard=False)
    kind = {"pod_monitor": "PodMonitor", "alerts": "PrometheusRule", "dashboard": "ConfigMap"}[wanted]
    assert artifacts(service(None)) == artifacts(service(nothing)) == []
    only: dict[str, Any] = {wanted: True}
    assert list(objects(service(dataclasses.replace(nothing, **only)))) == [kind]


def test_files() -> None:
    assert [one.path for one in artifacts(service())] == [
        "prod/support-chat/60-podmonitor-support-chat.yaml",
        "prod/support-chat/61-prometheusrule-support-chat.yaml",
        "prod/support-chat/20-configmap-support-chat-dashboard.yaml",
    ]


def test_they_stand_among_the_others() -> None:
    plan = service()
    found = kubernetes.emit(plan) + artifacts(plan)
    assert unresolved(found, list(kubernetes.externals(plan))) == []
    for one in artifacts(plan):
        assert yaml.safe_load(yaml_text(one.object)) == one.object


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _in_the_language(path: Path) -> bool:
    known = path[:-1] if path[:2] == ("spec", "slo") and len(path) == 4 else path  # percentiles are keys, not fields
    return bool(field_at(ModelService, known) or model_at(ModelService, known))


def test_every_part_says_where_it_came_from() -> None:
    for one in artifacts(service()):
        for path, source in one.sources.items():
            assert _at(one.object, path) is not None
            assert _in_the_language(source.path), source.path
    rule = artifacts(service())[1]
    found = {rule.source(("spec", "groups", 0, "rules", index, "expr")) for index in range(6)}
    assert {source.path for source in found if source} == {
        ("spec", "slo", metric, p) for metric, p in (("ttft", "p99"), ("itl", "p95"), ("e2e", "p50"))
    }


def test_every_alert_says_what_to_do() -> None:
    names = set()
    for rule in rules(service(**pools("l4", "a100"))):
        if "alert" in rule:
            key = (rule["alert"], *sorted(rule["labels"].items()))
            assert key not in names, "two alerts that Alertmanager can not tell apart"
            names.add(key)
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert set(rule["annotations"]) == {"summary", "description", "runbook"}
            assert PLAIN.name in rule["annotations"]["summary"]
            program, verb, file, topic = shlex.split(rule["annotations"]["runbook"])
            assert (program, verb, file) == ("aibrix-compile", "explain", PLAIN.file)
            assert _in_the_language(service_path(topic)), topic
    assert len(names) == 19


OBJECTIVES = {  # objective in seconds -> boundary
    "ttft": {2.0: 2.5, 2.5: 2.5, 0.0005: 0.001, 3000.0: 2560.0},
    "itl": {0.08: 0.1, 0.075: 0.075, 90.0: 80.0},
    "e2e": {30.0: 30.0, 31.0: 40.0, 0.1: 0.3},
}


@pytest.mark.parametrize(("metric", "seconds"), [(m, s) for m, known in OBJECTIVES.items() for s in known])
def test_an_objective_is_measured_at_a_boundary_that_exists(metric: str, seconds: float) -> None:
    plan = service(MonitoringPlan(True, True, True, (Objective(metric, 0.99, seconds),), METRICS))
    bound, (_, known) = monitoring.boundary(plan, plan.monitoring.objectives[0]), monitoring.BOUNDARIES[metric]  # type: ignore[union-attr]
    assert bound == OBJECTIVES[metric][seconds] and bound in known
    slow = next(rule for rule in rules(plan) if rule.get("record") == monitoring.SLOW)
    assert f'le="{bound}"' in slow["expr"]
    burning = [rule for rule in rules(plan) if rule.get("alert") == "ModelServiceObjectiveBurning"]
    said = [rule["annotations"]["description"] for rule in burning]
    assert all(("nearest histogram boundary" in text) == (bound != seconds) for text in said)


def test_boundaries_grow() -> None:
    for _, known in monitoring.BOUNDARIES.values():
        assert list(known) == sorted(set(known))


def test_buckets_of_the_engines_arguments_are_taken() -> None:
    text = '--custom-histogram-buckets={"time_to_first_token": [0.5, 2, 8]}'
    plan = service(ALL, **pools("l4", arguments=(Argument(text, ("spec", "engine", "args")),)))
    assert [monitoring.boundary(plan, one) for one in ALL.objectives] == [2.0, 0.075, 20.0]


def _thresholds(percentile: float) -> list[tuple[str, float]]:
    plan = service(MonitoringPlan(True, True, True, (Objective("ttft", percentile, 2.0),), METRICS))
    found = [rule for rule in rules(plan) if rule.get("alert") == "ModelServiceObjectiveBurning"]
    return [(one["labels"]["window"], float(one["expr"].split("> ")[1].split("\n")[0])) for one in found]


def test_thresholds_can_be_reached() -> None:
    assert _thresholds(0.99) == [("1h", 0.144), ("6h", 0.06), ("3d", 0.01)]
    assert _thresholds(0.999) == [("1h", 0.0144), ("6h", 0.006), ("3d", 0.001)]
    assert _thresholds(0.9) == [("1h", 0.9), ("6h", 0.6), ("3d", 0.1)]
    assert _thresholds(0.5) == [("1h", 0.9), ("3d", 0.5)]


def _holds(plan: ServicePlan) -> dict[str, str]:
    return {rule["alert"]: rule["for"] for rule in rules(plan) if "alert" in rule}


def test_alerts_wait_as_long_as_a_start_and_a_rollout_take() -> None:
    slow = pools("l4", startup_seconds=1800, replicas=4, rollout=Rollout("25%", 0))
    assert _holds(service(**slow))["ModelServiceDown"] == "32m"
    assert _holds(service(**slow))["ModelServiceReplicasMissing"] == "130m"
    surge = pools("l4", startup_seconds=1800, replicas=4, rollout=Rollout(0, 1))
    assert _holds(service(**surge))["ModelServiceReplicasMissing"] == "40m"


def test_a_pool_that_may_be_empty_is_not_missed() -> None:
    assert not _holds(service(**pools("l4", bounds=Bounds(0, 2)))).keys() & {
        "ModelServiceAbsent",
        "ModelServiceReplicasMissing",
    }
    assert "ModelServiceDown" in _holds(service(**pools("l4", bounds=Bounds(0, 2))))


def test_roles_that_an_engine_has_not_are_left_out() -> None:
    plan = service(dataclasses.replace(ALL, metrics={"ttft": METRICS["ttft"]}))
    text = json.dumps([one.object for one in artifacts(plan)])
    assert set(re.findall(r"vllm:[a-z_]+", text)) == {
        *(f"{METRICS['ttft']}{end}" for end in ("_bucket", "_count")),
        "vllm:lora_requests_info",
    }
    assert [panel["title"] for panel in panels(plan)] == [
        "Time to first token",
        "Error budget burn rate",
        "Replicas by pool",
    ]


def test_without_objectives_the_replicas_are_watched() -> None:
    plan = service(dataclasses.replace(ALL, objectives=()))
    (group,) = objects(plan)["PrometheusRule"]["spec"]["groups"]
    assert group["name"] == "assistants.support-chat.replicas"
    assert "Error budget burn rate" not in [panel["title"] for panel in panels(plan)]


# --- the dashboard


def test_panels_are_complete_and_do_not_overlap() -> None:
    every = dashboard(service(**pools("l4", "a100")))["panels"]
    laid_out(every)
    for panel in every:
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH"[: len(panel["targets"])])


def test_objectives_are_lines() -> None:
    drawn = {panel["title"]: [one["legendFormat"] for one in panel["targets"]] for panel in panels(service())}
    assert drawn["Time to first token"] == ["p50", "p95", "p99", "objective p99"]
    assert drawn["Replicas by pool"][-1] == "l4 wanted"


def test_what_the_dashboard_shows_of_alerts_is_recorded() -> None:
    names = {rule["record"] for rule in rules(service()) if "record" in rule}
    shown = set(re.findall(r"aibrix:[a-z0-9_]+:[a-z0-9_]+", json.dumps(panels(service()))))
    assert shown and shown <= names
    without = service(dataclasses.replace(ALL, alerts=False))
    assert "aibrix:objective" not in json.dumps(panels(without))


def test_uids_are_short_and_different() -> None:
    long = dataclasses.replace(service(), name="a" * 50)
    plans = [
        service(),
        compiled("summaries"),
        compiled(environment="staging"),
        long,
        dataclasses.replace(long, name="a" * 51),
    ]
    found = [uid(plan) for plan in plans]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", one) for one in found)
    (name,) = objects(service())["ConfigMap"]["data"]
    assert name == f"{uid(service())}.json"


def test_grafanas_sidecar_finds_it() -> None:
    assert objects(service())["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
