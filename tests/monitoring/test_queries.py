"""Every query parses, is about one service, and asks for series that this engine version has - or that our own rules record."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aibrix_compile.catalog import engines
from aibrix_compile.plan import ServicePlan
from tests.monitoring.watched import METRICS, PLAIN, dashboard, panels, pools, rules, service

SERVICES = {
    "one pool": service(),
    "two pools": service(**pools("l4", "a100")),
    "newer engine": service(engine_version="0.33.0"),
    "mock engine": service(engine="mock", engine_version="0.1.0"),
}


def _read(reader: Path, expressions: list[str]) -> list[Any]:
    lines = "".join(json.dumps(one) + "\n" for one in expressions)
    done = subprocess.run([reader], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _as_grafana_sends(expression: str) -> str:
    return expression.replace("$__rate_interval", "1m").replace("$pool", "l4|a100")


def _expressions(plan: ServicePlan) -> list[str]:
    targets = [target["expr"] for panel in panels(plan) for target in panel["targets"]]
    return [rule["expr"] for rule in rules(plan)] + list(map(_as_grafana_sends, targets))


@pytest.mark.parametrize("name", SERVICES)
def test_queries_ask_for_what_exists(promql_reader: Path, name: str) -> None:
    plan = SERVICES[name]
    engine = engines.find(plan.engine, plan.engine_version)
    assert engine is not None
    recorded = {rule["record"] for rule in rules(plan) if "record" in rule}
    expressions = _expressions(plan)
    assert not [one for one in expressions if "$" in one]
    for expression, answer in zip(expressions, _read(promql_reader, expressions), strict=True):
        assert not answer["error"], f"{expression}: {answer['error']}"
        for selector in answer["selectors"]:
            metric, asked = engine.metric(selector["name"]), selector["name"]
            assert asked == "up" or asked in recorded or (metric and asked in metric.series), asked
            assert metric is None or not metric.when, asked
            matchers = selector["matchers"]
            assert matchers["namespace"] == f"={plan.namespace}" and matchers["service"] == f"={plan.name}", expression


def test_what_is_no_query_is_seen(promql_reader: Path) -> None:
    (answer,) = _read(promql_reader, ["sum(rate(x[5m])"])
    assert "unclosed" in answer["error"]


def test_variables_of_the_dashboard(promql_reader: Path) -> None:
    (variable,) = (one for one in dashboard(service())["templating"]["list"] if one["name"] == "pool")
    selector = re.fullmatch(r"label_values\((.*), pool\)", variable["query"]["query"])
    assert selector
    (answer,) = _read(promql_reader, [selector[1]])
    assert answer["selectors"][0]["name"] == "up"


def test_the_catalog_has_every_role() -> None:
    for version in engines.versions("vllm"):
        engine = engines.find("vllm", version)
        assert engine and set(METRICS.values()) <= engine.metrics.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_prometheus_takes_the_rules(promtool: Path, tmp_path: Path, name: str) -> None:
    plan = SERVICES[name]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules(plan)}]}))
    done = subprocess.run([promtool, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_of_series_are_taken_as_well_as_those_of_families() -> None:
    monitored = SERVICES["one pool"].monitoring
    assert monitored is not None
    spelled = {role: engines.find("vllm", PLAIN.engine_version).metric(name) for role, name in METRICS.items()}  # type: ignore[union-attr]
    series = {
        role: metric.series[0] if metric and metric.type == "counter" else METRICS[role]
        for role, metric in spelled.items()
    }
    assert series["success"] == "vllm:request_success_total"
    other = service(dataclasses.replace(monitored, metrics=series))
    assert _expressions(other) == _expressions(SERVICES["one pool"])
