"""What the gateway's rules do when things happen, played through by promtool: who is called, and who sleeps on.

The series are written by hand; that they are called so is shown in test_gateway_queries.py."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aibrix_compile.plan import Bounds, EnvironmentPlan
from tests.monitoring.gateway_watched import ALONE, PROD, of
from tests.monitoring.watched import played

Series = dict[str, str]
Fires = Callable[..., list[set[str]]]
STEPS = 120
ENVOYS, PICKERS = ("gateway-0", "gateway-1"), ("picker-0", "picker-1")
KEYS = "envoy_extension_config_discovery_http_filter_envoy_filters_http_api_key_auth"
PARTS = {
    "listeners": "envoy_listener_manager_lds",
    "clusters": "envoy_cluster_manager_cds",
    "routes": "envoy_http_rds",
    "keys": KEYS,
}
ON_TIME = f"1x{STEPS}"


@pytest.fixture
def firing(promtool: Path, tmp_path: Path) -> Fires:
    """Alerts that fire after so many minutes, for each of them, as "Name severity" or "Name severity of what"; a sample of
    each series is one minute."""

    def play(plan: EnvironmentPlan, series: Series, *minutes: int) -> list[set[str]]:
        (rule,) = of(plan, "PrometheusRule")
        labels = "alertname, severity, service, part"
        return list(map(_alerts, played(promtool, tmp_path, rule["spec"], labels, series, minutes)))

    return play


def _alerts(got: str) -> set[str]:
    found = set()
    for inner in re.findall(r"{([^}]*)}", got.replace("\\", "")):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', inner))
        what = labels.get("service") or labels.get("part")
        found.add(f"{labels['alertname']} {labels['severity']}" + (f" of {what}" if what else ""))
    assert found or "nil" in got, got
    return found


# --- series


def _series(name: str, values: str, pods: tuple[str, ...] = ENVOYS, /, **labels: str) -> Series:
    assert PROD.gateway
    role = "picker" if pods[0] in PICKERS else "gateway"
    found = {}
    for pod in pods:
        every = {"namespace": PROD.gateway.namespace, "environment": PROD.name, "role": role, "pod": pod, **labels}
        inner = ",".join(f'{key}="{value}"' for key, value in every.items())
        found[f"{name}{{{inner}}}"] = values
    return found


def _picker(name: str, values: str, **labels: str) -> Series:
    return _series(name, values, PICKERS, **labels)


def _cluster(name: str, values: str, service: str = "chat", **labels: str) -> Series:
    return _series(f"envoy_cluster_{name}", values, envoy_cluster_name=service, service=service, **labels)


def _grows(a_minute: float) -> str:
    return f"0+{a_minute}x{STEPS}"


def _later(a_minute: float) -> str:
    """Not there in the first ten minutes, as Envoy's counters are before they count."""
    return f"_x10 1+{a_minute}x{STEPS}"


def _calm(a_minute: float = 60) -> Series:
    """All is well: both pods of both kinds, and so many requests a minute at each."""
    found = _series("up", ON_TIME) | _picker("up", ON_TIME)
    for prefix in PARTS.values():
        more = {"envoy_rds_route_config": "gateway"} if "rds" in prefix else {}
        found |= _series(f"{prefix}_update_attempt", ON_TIME, **more)
        found |= _series(f"{prefix}_update_success", ON_TIME, **more)
        found |= _series(f"{prefix}_update_time", f"0x{STEPS}", **more)
        found |= _series(f"{prefix}_version", f"1.8e19x{STEPS}", **more)
    for service in PROD.services:
        found |= _cluster("membership_healthy", f"3x{STEPS}", service.name)
        found |= _cluster("membership_total", f"3x{STEPS}", service.name)
    picker = {"envoy_cluster_name": "envoy-picker"}
    found |= _series("envoy_cluster_membership_healthy", f"2x{STEPS}", **picker)
    found |= _series("envoy_cluster_upstream_rq_completed", _grows(a_minute), **picker)
    found |= _cluster("upstream_rq_completed", _grows(a_minute))
    found |= _cluster("upstream_rq_xx", _grows(a_minute), envoy_response_code_class="2")
    found |= _series("envoy_http_downstream_rq_total", _grows(a_minute), envoy_http_conn_manager_prefix="gateway")
    found |= _series("envoy_server_memory_physical_size", f"300000000x{STEPS}")
    found |= _series("envoy_server_days_until_first_cert_expiring", f"60x{STEPS}")
    found |= _series("envoy_overload_envoy_overload_actions_stop_accepting_requests_active", f"0x{STEPS}")
    found |= _picker("picker_requests_total", _grows(a_minute), service="chat", code="picked")
    found |= _picker("picker_picks_total", _grows(a_minute), service="chat", strategy="cost")
    found |= _picker("picker_config_rejected_total", f"0x{STEPS}")
    found |= _picker("picker_config_info", ON_TIME, version="aaaa")
    found |= _decisions(a_minute, 0)
    return found


def _decisions(a_minute: float, slow: float) -> Series:
    return _picker("picker_decision_seconds_count", _grows(a_minute)) | _picker(
        "picker_decision_seconds_bucket", _grows(a_minute - slow), le="0.05"
    )


# --- nobody is called


def test_nobody_is_called_when_all_is_well(firing: Fires) -> None:
    assert firing(PROD, _calm(), 10, STEPS) == [set()] * 2


def test_nobody_is_called_without_traffic(firing: Fires) -> None:
    """Counters stand still, or are not there: every ratio would be 0 / 0."""
    assert firing(PROD, _calm(0), 10, STEPS) == [set()] * 2
    assert firing(PROD, _series("up", ON_TIME) | _picker("up", ON_TIME), 60) == [set()]
    assert firing(ALONE, _alone(_series("up", ON_TIME)), 60) == [set()]


def _alone(series: Series) -> Series:
    assert PROD.gateway and ALONE.gateway
    names = {PROD.gateway.namespace: ALONE.gateway.namespace, f'"{PROD.name}"': f'"{ALONE.name}"'}
    found = {}
    for name, values in series.items():
        for before, after in names.items():
            name = name.replace(before, after)
        found[name] = values
    return found


def test_what_happens_to_other_gateways_calls_nobody(firing: Fires) -> None:
    other = _alone(_cluster("upstream_rq_xx", _grows(60), envoy_response_code_class="5"))
    assert firing(PROD, _calm() | other, 60) == [set()]


def test_few_requests_at_night_call_nobody(firing: Fires) -> None:
    """One in ten minutes, and each of them goes wrong in every way."""
    night = "0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2 2 2 3 3 3 3 3 3 3 3 3 3"
    bad = _cluster("upstream_rq_completed", night) | _cluster("upstream_rq_xx", night, envoy_response_code_class="5")
    bad |= _cluster("upstream_rq_retry", night)
    bad |= _series("envoy_http_downstream_rq_total", night, envoy_http_conn_manager_prefix="gateway")
    bad |= _series("envoy_http_ext_proc_picker_streams_failed", night, envoy_http_conn_manager_prefix="gateway")
    bad |= _picker("picker_degraded_total", night, service="chat", reason="metrics")
    bad |= _picker("picker_shed_total", night, service="chat", priority="batch")
    bad |= _picker("picker_decision_seconds_count", night)
    assert firing(PROD, _calm(0) | bad, 15, 25, 38) == [set()] * 3


# --- its own pods


def test_a_gateway_that_is_gone_calls_somebody(firing: Fires) -> None:
    gone = "1x30 stale"
    down = _calm() | _series("up", gone)
    at_once, soon, long = firing(PROD, down, 33, 40, 60)
    assert (at_once, soon) == (set(), {"GatewayDown page"})
    assert long == {"GatewayDown page", "GatewayReplicasMissing ticket"}
    assert "GatewayDown page" in firing(PROD, {}, 10)[0]


def test_a_replica_that_is_missing_is_a_ticket(firing: Fires) -> None:
    for missing in (_series("up", f"1x30 0x{STEPS}", ENVOYS[:1]), _series("up", "1x30 stale", PICKERS[:1])):
        assert firing(PROD, _calm() | missing, 40, 60) == [set(), {"GatewayReplicasMissing ticket"}]


def test_memory(firing: Fires) -> None:
    full = _series("envoy_server_memory_physical_size", f"300000000x30 1700000000x{STEPS}", ENVOYS[:1])
    assert firing(PROD, _calm() | full, 35, 60) == [set(), {"GatewayMemoryHigh ticket"}]
    active = "envoy_overload_envoy_overload_actions_stop_accepting_requests_active"
    refuses = _series(active, f"0x30 1 0 0 1 0x{STEPS}", ENVOYS[:1])
    assert firing(PROD, _calm() | refuses, 30, 35, 60) == [set(), {"GatewayOverloaded page"}, set()]


# --- its configuration


@pytest.mark.parametrize("part", PARTS)
def test_a_refused_configuration_is_said_until_one_is_taken(firing: Fires, part: str) -> None:
    prefix = PARTS[part]
    more = {"envoy_rds_route_config": "gateway"} if part == "routes" else {}

    def told(attempts: str, successes: str, taken: str) -> Series:
        pod = ENVOYS[:1]
        return (
            _series(f"{prefix}_update_attempt", attempts, pod, **more)
            | _series(f"{prefix}_update_success", successes, pod, **more)
            | _series(f"{prefix}_update_time", taken, pod, **more)
        )

    refused = told(f"1x10 2x50 3x{STEPS}", f"1x61 2x{STEPS}", f"0x61 {62 * 60000}x{STEPS}")
    said = {f"GatewayConfigRejected ticket of {part}"}
    assert firing(PROD, _calm() | refused, 9, 14, 60, 70) == [set(), said, said, set()]
    taken = told(f"1x10 2x{STEPS}", f"1x10 2x{STEPS}", f"0x10 {11 * 60000}x{STEPS}")
    assert firing(PROD, _calm() | taken, 14, 30) == [set(), set()]


def test_a_picker_that_refuses_its_configuration(firing: Fires) -> None:
    said = {"GatewayConfigRejected ticket of picker"}
    refused = _series("picker_config_rejected_total", f"0x10 1x{STEPS}", PICKERS[:1])
    assert firing(PROD, _calm() | refused, 10, 14, 90) == [set(), said, said]
    mended = _series("picker_events_total", f"_x30 1x{STEPS}", PICKERS[:1], event="config_loaded")
    assert firing(PROD, _calm() | refused | mended, 14, 40, 60) == [said, set(), set()]
    again = _series("picker_config_rejected_total", f"0x10 1x40 2x{STEPS}", PICKERS[:1])
    assert firing(PROD, _calm() | again | mended, 45, 60) == [set(), said]


@pytest.mark.parametrize("part", ["listeners", "clusters", "routes"])
def test_replicas_that_differ(firing: Fires, part: str) -> None:
    more = {"envoy_rds_route_config": "gateway"} if part == "routes" else {}
    name = f"{PARTS[part]}_version"
    late = _series(name, f"1.8e19x30 1.2e18x{STEPS}", ENVOYS[:1], **more)
    assert firing(PROD, _calm() | late, 33, 40) == [set(), {f"GatewayReplicasDiffer ticket of {part}"}]
    other = late | _series(name, f"1.8e19x32 1.2e18x{STEPS}", ENVOYS[1:], **more)
    assert firing(PROD, _calm() | other, 33, 40) == [set(), set()]


def test_pickers_that_differ(firing: Fires) -> None:
    late = _series("picker_config_info", "1x30 stale", PICKERS[:1], version="aaaa")
    late |= _series("picker_config_info", f"_x31 1x{STEPS}", PICKERS[:1], version="bbbb")
    assert firing(PROD, _calm() | late, 33, 40) == [set(), {"GatewayReplicasDiffer ticket of picker"}]


def test_a_certificate_that_nobody_renews(firing: Fires) -> None:
    ends = _series("envoy_server_days_until_first_cert_expiring", f"13x{STEPS}", ENVOYS[:1])
    assert firing(PROD, _calm() | ends, 30, 70) == [set(), {"GatewayCertificateExpires ticket"}]


# --- the services behind it


def _unhealthy(known: str, service: str = "chat") -> Series:
    return _cluster("membership_healthy", f"3x30 0x{STEPS}", service) | _cluster("membership_total", known, service)


@pytest.mark.parametrize("known", [f"3x{STEPS}", f"3x30 0x{STEPS}"], ids=["unhealthy", "gone"])
def test_a_service_without_a_healthy_replica(firing: Fires, known: str) -> None:
    start = max(pool.startup_seconds for pool in next(one for one in PROD.services if one.name == "chat").pools) // 60
    said = {"GatewayServiceUnhealthy page of chat"}
    assert firing(PROD, _calm() | _unhealthy(known), 30 + start, 36 + start) == [set(), said]


def test_one_gateway_that_sees_no_replica_is_not_all(firing: Fires) -> None:
    one = _series(
        "envoy_cluster_membership_healthy", f"0x{STEPS}", ENVOYS[:1], envoy_cluster_name="chat", service="chat"
    )
    assert firing(PROD, _calm() | one, 60) == [set()]


def test_scaled_to_zero_is_no_incident(firing: Fires) -> None:
    services = tuple(
        dataclasses.replace(one, pools=tuple(dataclasses.replace(pool, bounds=Bounds(0, 4)) for pool in one.pools))
        for one in PROD.services
    )
    plan = dataclasses.replace(PROD, services=services)
    assert firing(plan, _calm() | _unhealthy(f"3x30 0x{STEPS}"), 60) == [set()]
    assert firing(plan, _calm() | _unhealthy(f"3x{STEPS}"), 60) == [{"GatewayServiceUnhealthy page of chat"}]


PAGE, TICKET = "GatewayErrors page of chat", "GatewayErrors ticket of chat"


def _failing(a_minute: float) -> Series:
    return _cluster("upstream_rq_xx", _later(a_minute), envoy_response_code_class="5")


def test_many_errors_call_somebody_within_minutes(firing: Fires) -> None:
    before, soon, later = firing(PROD, _calm() | _failing(12), 11, 18, 40)
    assert (before, soon, later) == (set(), {PAGE}, {PAGE, TICKET})


def test_some_errors_are_a_ticket(firing: Fires) -> None:
    assert firing(PROD, _calm() | _failing(1.8), 100) == [{TICKET}]
    assert firing(PROD, _calm() | _failing(0.3), 100) == [set()]


def test_errors_that_have_ended_call_nobody(firing: Fires) -> None:
    ended = _cluster("upstream_rq_xx", f"_x10 1+12x20 241x{STEPS}", envoy_response_code_class="5")
    during, after = firing(PROD, _calm() | ended, 25, 50)
    assert PAGE in during and PAGE not in after


def test_what_the_picker_refuses_is_an_error_too(firing: Fires) -> None:
    refused = _picker("picker_requests_total", _later(12), service="chat", code="503")
    assert firing(PROD, _calm() | refused, 40) == [{PAGE, TICKET}]
    only = _calm() | _cluster("upstream_rq_completed", f"0x{STEPS}") | refused  # none came to an engine
    assert firing(PROD, only, 40) == [{PAGE, TICKET}]
    for code in ("404", "429"):
        theirs = _picker("picker_requests_total", _later(12), service="small", code=code)
        assert firing(PROD, _calm() | theirs, 40) == [set()]


def test_errors_of_the_pickers_own_connection_are_no_services(firing: Fires) -> None:
    broken = _series(
        "envoy_cluster_upstream_rq_xx", _grows(30), envoy_cluster_name="envoy-picker", envoy_response_code_class="5"
    )
    assert firing(PROD, _calm() | broken, 60) == [set()]


def test_retries(firing: Fires) -> None:
    assert firing(PROD, _calm() | _cluster("upstream_rq_retry", _later(15)), 40) == [{"GatewayRetries ticket of chat"}]
    assert firing(PROD, _calm() | _cluster("upstream_rq_retry", _later(3)), 40) == [set()]


# --- the picker


def test_a_picker_that_is_gone_calls_somebody(firing: Fires) -> None:
    for pods in (ENVOYS, ENVOYS[:1]):
        gone = _series("envoy_cluster_membership_healthy", f"2x30 0x{STEPS}", pods, envoy_cluster_name="envoy-picker")
        assert firing(PROD, _calm() | gone, 32, 36) == [set(), {"GatewayPickerDown page"}]


@pytest.mark.parametrize("what", ["streams_failed", "message_timeouts"])
def test_a_picker_that_does_not_answer(firing: Fires, what: str) -> None:
    def failing(a_minute: float) -> Series:
        name = f"envoy_http_ext_proc_picker_{what}"
        return _series(name, _later(a_minute), envoy_http_conn_manager_prefix="gateway")

    assert firing(PROD, _calm() | failing(12), 12, 30) == [set(), {"GatewayPickerFailing page"}]
    assert firing(PROD, _calm() | failing(1), 30) == [set()]


def test_degraded_picks(firing: Fires) -> None:
    def lesser(a_minute: float, service: str = "chat") -> Series:
        return _picker("picker_degraded_total", _later(a_minute), service=service, reason="metrics")

    said = {"GatewayPicksDegraded ticket of chat"}
    assert firing(PROD, _calm() | lesser(12), 12, 30) == [set(), said]
    assert firing(PROD, _calm() | lesser(3), 30) == [set()]
    two = (
        lesser(12) | lesser(12, "small") | _picker("picker_picks_total", _grows(600), service="small", strategy="cost")
    )
    assert firing(PROD, _calm() | two, 30) == [said]


def test_slow_decisions(firing: Fires) -> None:
    assert firing(PROD, _calm() | _decisions(60, 2), 30) == [{"GatewayPickerSlow ticket"}]
    assert firing(PROD, _calm() | _decisions(600, 3), 30) == [set()]


def test_shedding(firing: Fires) -> None:
    shed = _picker("picker_shed_total", _later(6), service="chat", priority="batch")
    assert firing(PROD, _calm() | shed, 15, 40) == [set(), {"GatewayShedding ticket of chat"}]
    one_in_a_thousand = _calm(6000) | shed
    assert firing(PROD, one_in_a_thousand, 40) == [set()]


def test_requests_that_waited_in_vain(firing: Fires) -> None:
    def ended(outcome: str, values: str) -> Series:
        return _picker("picker_held_total", values, service="chat", outcome=outcome)

    said = {"GatewayHoldsRefused ticket of chat"}
    for outcome in ("expired", "full"):
        assert firing(PROD, _calm() | ended(outcome, _later(0.1)), 60) == [said]
    assert firing(PROD, _calm() | ended("left", _later(1)) | ended("released", _later(1)), 60) == [set()]
    assert firing(PROD, _calm() | ended("expired", _later(0.1)) | ended("released", _later(5)), 60) == [set()]
