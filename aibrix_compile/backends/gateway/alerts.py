"""When the gateway calls somebody: its own pods, its configuration, the services behind it, the picker.

Whoever is called must find something to do, so a share of few requests calls nobody, a query without traffic is empty, and
what is a state (down, rejected, different) fires as long as the state lasts. Envoy shows a counter only once it has
counted, so no query here waits for a first count to be seen as a rise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from aibrix_compile.backends.gateway import workloads
from aibrix_compile.backends.gateway.clusters import PICKER as PICKER_CLUSTER
from aibrix_compile.backends.gateway.envoy import MEMORY
from aibrix_compile.backends.gateway.workloads import GATEWAY, METRICS, PICKER
from aibrix_compile.plan import EnvironmentPlan, GatewayPlan, ServicePlan

_PAGE, _TICKET = "page", "ticket"
ENOUGH = 10
"""Requests that a share of bad ones must have behind it: at night one is a share of 100 %."""
_ENOUGH_HELD = 3
"""The same for requests that waited in vain: a service that is woken a few times a day has few of them."""
_SLOW = 0.05
"""Seconds of a decision; a boundary of the picker's histogram. A decision takes 1 ms; 50 ms are felt in a TTFT."""
_MEMORY = 0.75
"""Of the container's limit. Envoy closes connections at 0.86 of it: its heap monitor's limit is 0.9, and the action's 0.95."""
_EXPIRES = 14
"""Days. Issuers renew a month before the end, so two weeks mean that nobody does."""


class _Part(NamedTuple):
    """A piece of Envoy's configuration that changes without a restart: its counters' prefix, matchers, and what does not
    happen when Envoy refuses it."""

    name: str
    prefix: str
    matchers: dict[str, str]
    missed: str


_PARTS = (
    _Part(
        "listeners",
        "envoy_listener_manager_lds",
        {},
        "what was changed of filters, limits or certificates is not in force",
    ),
    _Part("clusters", "envoy_cluster_manager_cds", {}, "new services can not be reached, and those removed still can"),
    _Part(
        "routes",
        "envoy_http_rds",
        {"envoy_rds_route_config": "gateway"},
        "new models and adapters are unknown, and rights of tenants are the old ones",
    ),
)
_KEYS = _Part(
    "keys",
    "envoy_extension_config_discovery_http_filter_envoy_filters_http_api_key_auth",
    {},
    "new keys are refused, and those that were withdrawn still open",
)


class Alert(NamedTuple):
    name: str
    expression: str
    hold: str
    severity: str
    summary: str
    description: str
    labels: Mapping[str, str] = MappingProxyType({})


def groups(environment: EnvironmentPlan, gateway: GatewayPlan) -> dict[str, list[Alert]]:
    """All alerts, by what they are about."""
    return {
        "replicas": [*_replicas(environment, gateway), *_load(environment, gateway)],
        "configuration": list(_configuration(environment, gateway)),
        "services": [*_services(environment, gateway), *_traffic(environment, gateway)],
        "picker": list(_picking(environment, gateway)) if gateway.picker else [],
    }


def matchers(environment: EnvironmentPlan, gateway: GatewayPlan, **more: str) -> str:
    """Of this gateway's series, Envoy's and the picker's, by labels that the PodMonitors set."""
    wanted = {"namespace": gateway.namespace, "environment": environment.name, **more}
    return ",".join(f'{label}="{value}"' for label, value in wanted.items())


def failures(chosen: str, span: str, gateway: GatewayPlan) -> tuple[str, str]:
    """5xx a second by service, and all answers: those of Envoy's clusters, and those that the picker gave itself, which no
    cluster sees."""
    chosen += ',service!=""'
    picker = f' or rate(picker_requests_total{{{chosen},code=~"5.."}}[{span}])' if gateway.picker else ""
    bad = f'rate(envoy_cluster_upstream_rq_xx{{{chosen},envoy_response_code_class="5"}}[{span}])'
    every = f"rate(envoy_cluster_upstream_rq_completed{{{chosen}}}[{span}])"
    return f"sum by (service) ({bad}{picker})", f"sum by (service) ({every}{picker})"


# --- its own pods


def _replicas(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Alert]:
    roles = {GATEWAY: (gateway.name, gateway.replicas)}
    if gateway.picker:
        roles[PICKER] = (gateway.picker, gateway.picker_replicas)
    up = f"sum(up{{{matchers(environment, gateway, role=GATEWAY)}}})"
    yield Alert(
        "GatewayDown",
        f"({up} or vector(0)) == 0",
        "5m",
        _PAGE,
        f"{gateway.name}: no replica of the gateway answers",
        f"Nobody reaches any model of {environment.name}. `{_pods(environment, gateway, GATEWAY)}`: none or Pending - quota or "
        "nodes; restarts - `kubectl logs --previous` of container envoy says which configuration it refused: revert that "
        "commit; Running and ready - does Prometheus select the PodMonitor, and may it reach port ops?",
    )
    for role, (name, replicas) in roles.items():
        yield Alert(
            "GatewayReplicasMissing",
            f"(sum(up{{{matchers(environment, gateway, role=role)}}}) or vector(0)) < {replicas}",
            "15m",
            _TICKET,
            f"{name} has {{{{ $value }}}} of {replicas} replicas",
            f"For longer than a rollout takes. `{_pods(environment, gateway, role)}`, then `kubectl describe` of the pod that is "
            "not ready: its events say whether it lacks a node, an image, a Secret or memory.",
            {"role": role},
        )


def _load(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Alert]:
    chosen = matchers(environment, gateway)
    active = "envoy_overload_envoy_overload_actions_stop_accepting_requests_active"
    yield Alert(
        "GatewayOverloaded",
        f"max by (pod) (max_over_time({active}{{{chosen}}}[5m])) > 0",
        "1m",
        _PAGE,
        f"{gateway.name}: {{{{ $labels.pod }}}} has no memory left and refuses requests",
        "It answers 503 to new requests until memory is free. Who sends bodies of many megabytes, or reads answers slowly? "
        "bytes_in and bytes_out of the access log say it; limit that tenant, or add replicas to the gateway.",
    )
    yield Alert(
        "GatewayMemoryHigh",
        f"max by (pod) (envoy_server_memory_physical_size{{{chosen}}}) > {_MEMORY * MEMORY:.0f}",
        "10m",
        _TICKET,
        f"{gateway.name}: {{{{ $labels.pod }}}} uses {{{{ $value | humanize1024 }}}}B of {MEMORY // 2**20} MiB",
        "A little more and it refuses requests. Memory is bodies that are being read or wait to be repeated, and answers that "
        "clients are slow to read: add replicas, or lower gateway.bodyLimit.",
    )


# --- its configuration


def _configuration(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Alert]:
    for part in (*_PARTS, *((_KEYS,) if gateway.keys_secret else ())):
        chosen = matchers(environment, gateway, **part.matchers)
        failed = "({0}_update_attempt{{{1}}}{2} - {0}_update_success{{{1}}}{2})"
        now, before = (failed.format(part.prefix, chosen, offset) for offset in ("", " offset 1m"))
        yield _rejected(
            gateway,
            part.name,
            f"{_last(now, before)}\n> {part.prefix}_update_time{{{chosen}}} / 1000",
            part.missed,
            "container keys of the pod says which entry of the Secret it left out, and container envoy"
            if part is _KEYS
            else "container envoy of the pod",
        )
    for part in _PARTS:
        version = f"{part.prefix}_version{{{matchers(environment, gateway, **part.matchers)}}}"
        yield _differ(environment, gateway, GATEWAY, part.name, f"max({version}) != min({version})")
    if gateway.picker:
        chosen = matchers(environment, gateway)
        loaded = f'picker_events_total{{{chosen},event="config_loaded"}}'
        rejected = f"picker_config_rejected_total{{{chosen}}}"
        yield _rejected(
            gateway,
            "picker",
            f"{_last(rejected, f'{rejected} offset 1m')}\n"
            f"> ignoring (event)\n"
            f"({_last(loaded, f'({loaded} offset 1m or 0 * {loaded})')} or ignoring (event) 0 * {rejected})",
            "it goes on choosing replicas by the old one",
            "the pod",
        )
        versions = f"count(count by (version) (picker_config_info{{{chosen}}}))"
        yield _differ(environment, gateway, PICKER, "picker", f"{versions} > 1")
    if gateway.tls_secret:
        yield Alert(
            "GatewayCertificateExpires",
            f"min(envoy_server_days_until_first_cert_expiring{{{matchers(environment, gateway)}}}) < {_EXPIRES}",
            "1h",
            _TICKET,
            f"{gateway.name}: the certificate ends in {{{{ $value }}}} days",
            f"`kubectl -n {gateway.namespace} describe secret {gateway.tls_secret}` names who should renew it (cert-manager: "
            "`kubectl describe certificate`). Envoy reads the Secret again without a restart.",
        )


def _last(now: str, before: str) -> str:
    """When a counter rose last, in seconds since 1970, of the last day."""
    return f"max_over_time(timestamp({now} > {before})[1d:1m])"


def _rejected(gateway: GatewayPlan, part: str, expression: str, missed: str, where: str) -> Alert:
    return Alert(
        "GatewayConfigRejected",
        expression,
        "1m",
        _TICKET,
        f"{gateway.name}: {{{{ $labels.pod }}}} has refused a new configuration ({part})",
        f"The old one stays: {missed}. The log of {where} says why. Revert the commit, and run `aibrix-compile check "
        "--envoy` on it: this should have been found there.",
        {"part": part},
    )


def _differ(environment: EnvironmentPlan, gateway: GatewayPlan, role: str, part: str, expression: str) -> Alert:
    return Alert(
        "GatewayReplicasDiffer",
        expression,
        "5m",
        _TICKET,
        f"{gateway.name}: replicas have different configurations ({part})",
        "What a client gets depends on the replica that it meets. A ConfigMap reaches all pods within two minutes; see which "
        f"pod refused or never got it: `{_pods(environment, gateway, role)}`, and its log. Deleting that pod is safe.",
        {"part": part},
    )


# --- the services behind it


def _services(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Alert]:
    for service in environment.services:
        chosen = matchers(environment, gateway, envoy_cluster_name=service.name)
        healthy, total = (f"max(envoy_cluster_membership_{what}{{{chosen}}})" for what in ("healthy", "total"))
        start = max(pool.startup_seconds for pool in service.pools)
        always = any(pool.replicas if pool.bounds is None else pool.bounds.low for pool in service.pools)
        yield Alert(
            "GatewayServiceUnhealthy",
            f"{healthy} == 0" + ("" if always else f"\nand\n{total} > 0"),  # scaled to zero is no incident
            f"{math.ceil((start + 120) / 60)}m",
            _PAGE,
            f"{service.name}: the gateway knows no healthy replica",
            "Every request is answered 503, for longer than a start takes. "
            f"`kubectl -n {service.namespace} get pods -l serving.aibrix.ai/service={service.name}`: are replicas there, and do "
            "they answer /health? If they do, does a NetworkPolicy keep the gateway away from them?",
            {"service": service.name},
        )


def _traffic(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Alert]:
    chosen = matchers(environment, gateway)
    for span, seconds, share, hold, severity in (("10m", 600, 0.05, "2m", _PAGE), ("1h", 3600, 0.01, "15m", _TICKET)):
        bad, seen = failures(chosen, span, gateway)
        yield Alert(
            "GatewayErrors",
            f"{bad}\n/\n({seen} > 0)\n> {share}\nand\n{seconds} * {bad} >= {ENOUGH}",
            hold,
            severity,
            f"{{{{ $labels.service }}}}: {{{{ $value | humanizePercentage }}}} of all requests failed in the last {span}",
            "Answers of 500 and above, the engines' and ours. In the gateway's access log `details` and `flags` of such lines "
            "say who failed: via_upstream - the engine itself, read its log; UF, UH or no_healthy_upstream - replicas are gone; "
            "picker_... - nobody was ready in time.",
            {"window": span},
        )
    retried = f'sum by (service) (rate(envoy_cluster_upstream_rq_retry{{{chosen},service!=""}}[10m]))'
    done = f'sum by (service) (rate(envoy_cluster_upstream_rq_completed{{{chosen},service!=""}}[10m]))'
    yield Alert(
        "GatewayRetries",
        f"{retried}\n/\n({done} > 0)\n> 0.1\nand\n600 * {retried} >= {ENOUGH}",
        "10m",
        _TICKET,
        "{{ $labels.service }}: {{ $value | humanizePercentage }} as many retries as requests",
        "Clients see no errors yet, but wait longer. Lines of the access log with `attempts` above 1 tell it: do `picked` and "
        "`endpoint` name one replica again and again? Restart that one. All of them: they are overloaded or restart.",
    )


# --- the picker


def _picking(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Alert]:
    chosen, services = matchers(environment, gateway), environment.services
    severity = _PAGE if any(map(_needs_picker, services)) else _TICKET
    lost = (
        "Requests for adapters that only some replicas have are refused, nothing is held, and all others go to the replica "
        "with the fewest requests, without regard to prefixes, priorities or budgets of tokens. "
    )
    look = f"`{_pods(environment, gateway, PICKER)}` and `kubectl -n {gateway.namespace} logs deploy/{gateway.picker}`"
    seen_by = f'envoy_cluster_membership_healthy{{{chosen},envoy_cluster_name="{PICKER_CLUSTER}"}}'
    yield Alert(
        "GatewayPickerDown",
        f"count({seen_by} == 0) > 0",
        "3m",
        severity,
        f"{gateway.picker}: {{{{ $value }}}} replicas of the gateway reach no picker",
        f"{lost}{look}: restarts, out of memory, or not ready because it can not read pods?",
    )
    failed, late = (
        f"(sum(rate(envoy_http_ext_proc_picker_{what}{{{chosen}}}[5m])) or vector(0))"
        for what in ("streams_failed", "message_timeouts")
    )
    every = f'sum(rate(envoy_http_downstream_rq_total{{{chosen},envoy_http_conn_manager_prefix="gateway"}}[5m]))'
    yield Alert(
        "GatewayPickerFailing",
        f"({failed} + {late})\n/\n({every} > 0)\n> 0.05\nand\n300 * ({failed} + {late}) >= {ENOUGH}",
        "5m",
        severity,
        f"{gateway.picker}: {{{{ $value | humanizePercentage }}}} of all requests went on without the picker",
        f"{lost}It did not answer within a second, or broke off: {look}. One core busy all the time - add replicas.",
    )
    picks = f"sum by (service) (rate(picker_picks_total{{{chosen}}}[5m]))"
    lesser = f"sum by (service, reason) (rate(picker_degraded_total{{{chosen}}}[5m]))"
    yield Alert(
        "GatewayPicksDegraded",
        f"{lesser}\n/ on (service) group_left ()\n({picks} > 0)\n> 0.1\nand\n300 * {lesser} >= {ENOUGH}",
        "5m",
        _TICKET,
        "{{ $labels.service }}: {{ $value | humanizePercentage }} of all picks are degraded ({{ $labels.reason }})",
        "Replicas are chosen in a lesser way than configured: metrics or reports - does the engine's /metrics answer the picker "
        "within a second? scrapes - no engine answers it at all; function - the custom strategy fails, the picker's log has its "
        "error; spill - the service itself has no ready replica; base - an adapter is missing. "
        f"`{_inside(gateway)} explain REQUEST_ID --address localhost:{METRICS.number}` shows one decision.",
    )
    decided = f"sum(rate(picker_decision_seconds_count{{{chosen}}}[10m]))"
    slow = f'({decided} - sum(rate(picker_decision_seconds_bucket{{{chosen},le="{_SLOW}"}}[10m])))'
    yield Alert(
        "GatewayPickerSlow",
        f"{slow}\n/\n({decided} > 0)\n> 0.01\nand\n600 * {slow} >= {ENOUGH}",
        "10m",
        _TICKET,
        f"{gateway.picker}: the 99th percentile of decisions is above {_SLOW * 1000:g} ms",
        f"{{{{ $value | humanizePercentage }}}} of all decisions took longer. Prompts of megabytes, a custom strategy that is "
        f"slow, or a process that needs more than its core: add replicas to the picker. {look}.",
    )
    if any(service.routing.priority for service in services):
        yield _shedding(chosen)
    if any(service.routing.hold for service in services):
        yield _holding(chosen)


def _shedding(chosen: str) -> Alert:
    shed = f"sum by (service, priority) (rate(picker_shed_total{{{chosen}}}[10m]))"
    seen = f'sum by (service) (rate(picker_requests_total{{{chosen},service!=""}}[10m]))'
    return Alert(
        "GatewayShedding",
        f"{shed}\n/ on (service) group_left ()\n({seen} > 0)\n> 0.01\nand\n600 * {shed} >= {ENOUGH}",
        "10m",
        _TICKET,
        "{{ $labels.service }}: requests of priority {{ $labels.priority }} are turned away",
        "Replicas are full, so {{ $value | humanizePercentage }} of the service's requests were answered 429. Add replicas or "
        "raise the scaler's maximum; if it is the highest priority that is turned away, too much is called important.",
    )


def _holding(chosen: str) -> Alert:
    vain = f'sum by (service) (rate(picker_held_total{{{chosen},outcome=~"expired|full"}}[30m]))'
    every = f"sum by (service) (rate(picker_held_total{{{chosen}}}[30m]))"
    return Alert(
        "GatewayHoldsRefused",
        f"{vain}\n/\n({every} > 0)\n> 0.1\nand\n1800 * {vain} >= {_ENOUGH_HELD}",
        "1m",
        _TICKET,
        "{{ $labels.service }}: {{ $value | humanizePercentage }} of the requests that were held waited in vain",
        "No replica, or none with the adapter, was ready in routing.hold.maxWait, or more waited than may. Does a start take "
        "longer than that? Then make it longer or keep one replica warm. Does none start? Look at its pods.",
    )


def _needs_picker(service: ServicePlan) -> bool:
    """Whether clients see errors when no picker answers."""
    routing, adapters = service.routing, service.adapters
    placed = adapters is not None and any(not one.everywhere for one in adapters.items)
    return bool(routing.picker) and (routing.when_picker_down != "serve" or routing.hold is not None or placed)


def _pods(environment: EnvironmentPlan, gateway: GatewayPlan, role: str) -> str:
    labels = ",".join(f"{label}={value}" for label, value in workloads.selector(environment.name, role).items())
    return f"kubectl -n {gateway.namespace} get pods -l {labels}"


def _inside(gateway: GatewayPlan) -> str:
    return f"kubectl -n {gateway.namespace} exec deploy/{gateway.picker} -- python3 -m aibrix_controllers.picker"
