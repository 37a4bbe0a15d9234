"""What is emitted to watch a gateway: which objects when, names and labels, and what an alert tells."""

import dataclasses
import re
from typing import Any

import pytest
import yaml

from aibrix_compile.backends.gateway import dashboard, workloads
from aibrix_compile.backends.objects import ORDER
from aibrix_compile.emit import yaml_text
from aibrix_compile.plan import EnvironmentPlan
from tests.monitoring.gateway_watched import ALL, ALONE, PROD, board, expressions, objects, of, panels, rules, watched
from tests.monitoring.watched import laid_out

NOTHING = dataclasses.replace(ALL, pod_monitor=False, alerts=False, dashboard=False)


@pytest.mark.parametrize("wanted", ["pod_monitor", "alerts", "dashboard"])
def test_only_what_some_service_wants(wanted: str) -> None:
    kinds = {"pod_monitor": ["PodMonitor", "PodMonitor"], "alerts": ["PrometheusRule"], "dashboard": ["ConfigMap"]}
    assert objects(watched(PROD, None)) == objects(watched(PROD, NOTHING)) == []
    only: dict[str, Any] = {wanted: True}
    found = objects(watched(PROD, dataclasses.replace(NOTHING, **only)))
    assert [one["kind"] for one in found] == kinds[wanted]


def test_names() -> None:
    found = [(one["kind"], one["metadata"]["name"]) for one in objects(PROD)]
    assert found == [
        ("PodMonitor", "prod-gateway"),
        ("PodMonitor", "prod-picker"),
        ("PrometheusRule", "prod-gateway"),
        ("ConfigMap", "prod-gateway-dashboard"),
    ]
    for one in objects(PROD):
        assert one["kind"] in ORDER
        assert one["metadata"]["namespace"] == "llm-gateway"
        assert yaml.safe_load(yaml_text(one)) == one


def _pods(plan: EnvironmentPlan) -> dict[str, Any]:
    assert plan.gateway is not None
    picker = workloads.picker(plan.name, plan.gateway, {}, runtime=False)
    made = [workloads.envoy(plan.name, plan.gateway, plan.services, ""), picker]
    return {one["metadata"]["name"]: one["spec"]["template"] for one in made}


def test_pod_monitors_find_pods_and_their_ports() -> None:
    for monitor in of(PROD, "PodMonitor"):
        pod = _pods(PROD)[monitor["metadata"]["name"]]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
        for rule in endpoint["relabelings"]:
            (source,) = rule["sourceLabels"]
            label = source.removeprefix("__meta_kubernetes_pod_").removeprefix("label_")
            known = {re.sub(r"[^a-z0-9]", "_", name) for name in pod["metadata"]["labels"]} | {"name"}
            assert label in known, source


def _relabeled(plan: EnvironmentPlan, labels: dict[str, str]) -> dict[str, str] | None:
    """As Prometheus does it; None if dropped."""
    (endpoint,) = of(plan, "PodMonitor")[0]["spec"]["podMetricsEndpoints"]
    for rule in endpoint["metricRelabelings"]:
        match = re.fullmatch(rule["regex"], labels.get(rule["sourceLabels"][0], ""))
        if match and rule["action"] == "drop":
            return None
        if match:
            labels = labels | {rule["targetLabel"]: match[1]}
    return labels


@pytest.mark.parametrize(
    ("cluster", "service"),
    [("chat", "chat"), ("chat-next", "chat-next"), ("chat.spill", "chat"), ("envoy-picker", ""), ("chat-nexter", "")],
)
def test_a_clusters_series_are_its_services(cluster: str, service: str) -> None:
    found = _relabeled(PROD, {"__name__": "envoy_cluster_upstream_rq_completed", "envoy_cluster_name": cluster})
    assert found is not None and found.get("service", "") == service


def test_series_of_the_admin_port_are_dropped() -> None:
    assert _relabeled(PROD, {"__name__": "envoy_cluster_upstream_rq", "envoy_cluster_name": "envoy-admin"}) is None
    assert _relabeled(PROD, {"__name__": "envoy_listener_admin_downstream_cx_total"}) is None


@pytest.mark.parametrize("plan", [PROD, ALONE], ids=["prod", "alone"])
def test_no_query_asks_for_what_is_dropped(plan: EnvironmentPlan) -> None:
    for name in re.findall(r"\benvoy_\w+(?={)", " ".join(expressions(plan))):
        assert _relabeled(plan, {"__name__": name}) is not None, name


def test_every_alert_says_what_to_do() -> None:
    known = set()
    for rule in rules(PROD):
        key = (rule["alert"], *sorted(rule["labels"].items()))
        assert key not in known, "two alerts that Alertmanager can not tell apart"
        known.add(key)
        labels, told = rule["labels"], rule["annotations"]
        assert labels["severity"] in ("page", "ticket") and re.fullmatch(r"\d+[mh]", rule["for"])
        assert (labels["namespace"], labels["environment"], labels["gateway"]) == (
            "llm-gateway",
            "prod",
            "prod-gateway",
        )
        assert set(told) == {"summary", "description"} and len(told["description"]) > 100
        for text in told.values():
            assert text.count("{{") == text.count("}}") and "{{{" not in text
            assert not re.search(r"(?<!{){[^{]", text), "a placeholder that was not filled"
    assert len({rule["alert"] for rule in rules(PROD)}) == 16


def test_templates_name_labels_that_the_query_keeps() -> None:
    for rule in rules(PROD):
        text = " ".join(rule["annotations"].values())
        for label in re.findall(r"\$labels\.(\w+)", text):
            grouped = re.search(r"by \(([^)]*)\)", rule["expr"])
            raw = "by (" not in rule["expr"] and "sum(" not in rule["expr"]  # the series' own labels
            assert raw or (grouped and label in grouped[1].split(", ")), (rule["alert"], label)


def test_without_a_picker_and_keys_nothing_is_asked_of_them() -> None:
    for absent in ("picker", "api_key", "cert_expiring", "rate_limit"):
        assert absent not in " ".join(expressions(ALONE)), absent
        assert absent in " ".join(expressions(PROD)), absent
    assert {"GatewayDown", "GatewayErrors", "GatewayConfigRejected"} <= {rule["alert"] for rule in rules(ALONE)}


def _changed(plan: EnvironmentPlan, **routing: Any) -> EnvironmentPlan:
    services = tuple(
        dataclasses.replace(one, adapters=None, routing=dataclasses.replace(one.routing, **routing))
        for one in plan.services
    )
    return dataclasses.replace(plan, services=services)


def test_a_picker_that_is_gone_calls_somebody_only_where_clients_feel_it() -> None:
    def severity(plan: EnvironmentPlan) -> str:
        (found,) = {rule["labels"]["severity"] for rule in rules(plan) if rule["alert"] == "GatewayPickerDown"}
        return str(found)

    calm = _changed(PROD, hold=None, when_picker_down="serve")
    assert severity(calm) == "ticket"
    assert severity(PROD) == severity(_changed(PROD, hold=None, when_picker_down="refuse")) == "page"
    placed = zip(calm.services, PROD.services, strict=True)
    services = tuple(dataclasses.replace(one, adapters=other.adapters) for one, other in placed)
    assert severity(dataclasses.replace(calm, services=services)) == "page"


def test_what_is_not_configured_is_not_watched() -> None:
    plain = _changed(PROD, hold=None, priority=())
    assert not {rule["alert"] for rule in rules(plain)} & {"GatewayShedding", "GatewayHoldsRefused"}
    assert not {panel["title"] for panel in panels(plain)} & {"Shed", "Requests held", "Ends of waiting"}


# --- the dashboard


@pytest.mark.parametrize("plan", [PROD, ALONE], ids=["prod", "alone"])
def test_panels_are_complete_and_do_not_overlap(plan: EnvironmentPlan) -> None:
    every = board(plan)["panels"]
    laid_out(every)
    assert len({panel["title"] for panel in every}) == len(every)
    for panel in every:
        if panel["type"] != "row":
            assert all(target["legendFormat"] for target in panel["targets"])


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in panels(PROD):
        for target in panel["targets"]:
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            kept = re.search(r"by \(([^)]*)\)", target["expr"])
            assert wanted <= set(kept[1].split(", ") if kept else ()), (panel["title"], target["legendFormat"])


def test_rows() -> None:
    titles = [panel["title"] for panel in board(PROD)["panels"] if panel["type"] == "row"]
    assert titles == ["Traffic", "Picks", "Waiting and refused", "The picker itself", "Tokens", "Envoy"]
    assert [panel["title"] for panel in board(ALONE)["panels"] if panel["type"] == "row"] == ["Traffic", "Envoy"]


def test_grafanas_sidecar_finds_it_under_a_name_of_its_own() -> None:
    (config_map,) = of(PROD, "ConfigMap")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert PROD.gateway and ALONE.gateway
    uids = [dashboard.uid(PROD, PROD.gateway), dashboard.uid(ALONE, ALONE.gateway)]
    assert list(config_map["data"]) == [f"{uids[0]}.json"] and len(set(uids)) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", uid) for uid in uids)
