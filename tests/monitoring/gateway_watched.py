"""The gateways to watch: those of an example, and what their objects hold."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from aibrix_compile.backends.gateway import dashboard, monitoring
from aibrix_compile.compiler import compile_workspace
from aibrix_compile.loading import load
from aibrix_compile.plan import EnvironmentPlan, MonitoringPlan

EXAMPLE = Path(__file__).parents[2] / "examples" / "08-gateway"
ALL = MonitoringPlan(True, True, True, (), {})


def compiled(environment: str = "prod") -> EnvironmentPlan:
    (plan,) = compile_workspace(load([], EXAMPLE), build=False, only=[environment]).plans
    return plan


def watched(plan: EnvironmentPlan, wanted: MonitoringPlan | None = ALL) -> EnvironmentPlan:
    """With `wanted` as the first service's monitoring, and none of the others'."""
    services = tuple(
        dataclasses.replace(service, monitoring=None if index else wanted)
        for index, service in enumerate(plan.services)
    )
    return dataclasses.replace(plan, services=services)


PROD = watched(compiled())
"""Keys, tenants with limits, a certificate, a picker, priorities, a hold."""
ALONE = watched(compiled("dev"))
"""Envoy and nothing else."""


def objects(plan: EnvironmentPlan) -> list[Any]:
    assert plan.gateway is not None
    board = dashboard.config_map(plan, plan.gateway)
    return [*monitoring.objects(plan, plan.gateway), *([board] if board else [])]


def of(plan: EnvironmentPlan, kind: str) -> list[Any]:
    return [one for one in objects(plan) if one["kind"] == kind]


def rules(plan: EnvironmentPlan) -> list[Any]:
    (rule,) = of(plan, "PrometheusRule")
    return [one for group in rule["spec"]["groups"] for one in group["rules"]]


def board(plan: EnvironmentPlan) -> Any:
    (config_map,) = of(plan, "ConfigMap")
    ((_, text),) = config_map["data"].items()
    return json.loads(text)


def panels(plan: EnvironmentPlan) -> list[Any]:
    return [panel for panel in board(plan)["panels"] if panel["type"] != "row"]


def expressions(plan: EnvironmentPlan) -> list[str]:
    """All queries, those of the dashboard as Grafana sends them."""
    targets = [target["expr"] for panel in panels(plan) for target in panel["targets"]]
    sent = [one.replace("$__rate_interval", "1m").replace("$service", "chat|small") for one in targets]
    return [rule["expr"] for rule in rules(plan)] + sent
