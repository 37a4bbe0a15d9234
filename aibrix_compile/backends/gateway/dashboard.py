"""Plan -> the gateway's Grafana dashboard: from what clients get, to what the picker decides, to Envoy itself.

A panel is there only where something can be on it: no keys, no picker, no priorities - no panels of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from aibrix_compile.artifact import Object
from aibrix_compile.backends.gateway import workloads
from aibrix_compile.backends.gateway.alerts import failures, matchers
from aibrix_compile.backends.gateway.envoy import MEMORY
from aibrix_compile.backends.gateway.workloads import GATEWAY
from aibrix_compile.backends.grafana import LABEL, Json, Row, Target, document, graph, uid_of, variable
from aibrix_compile.emit import json_text
from aibrix_compile.plan import EnvironmentPlan, GatewayPlan

_QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
_SPAN = "$__rate_interval"


def config_map(environment: EnvironmentPlan, gateway: GatewayPlan) -> Object | None:
    """Of the one dashboard, if some service wants one."""
    if not any(service.monitoring and service.monitoring.dashboard for service in environment.services):
        return None
    name = uid(environment, gateway)
    data = {f"{name}.json": json_text(_dashboard(environment, gateway, name))}
    found = workloads.config_map(environment.name, gateway, f"{gateway.name}-dashboard", GATEWAY, data)
    found["metadata"]["labels"] |= LABEL
    return found


def uid(environment: EnvironmentPlan, gateway: GatewayPlan) -> str:
    """The dashboard's, by which links find it."""
    return uid_of(environment.name, gateway.namespace, gateway.name)


def _dashboard(environment: EnvironmentPlan, gateway: GatewayPlan, name: str) -> Json:
    about = f"Envoy and its picker in front of {len(environment.services)} services. Written by aibrix-compile."
    total = f'envoy_cluster_membership_total{{{matchers(environment, gateway)},service!=""}}'
    services = variable("service", "Service", total, everything=".+")  # .* would take series without a service
    title, tags = f"{gateway.name} ({environment.name})", ["aibrix", environment.name, gateway.name]
    return document(name, title, about, tags, [services], _rows(environment, gateway))


def _rows(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Row]:
    whole = matchers(environment, gateway)
    chosen = f'{whole},service=~"$service"'
    rows = {"Traffic": list(_traffic(whole, chosen, gateway))}
    if gateway.picker:
        rows |= {
            "Picks": list(_picks(whole, chosen)),
            "Waiting and refused": list(_refusals(environment, gateway, whole, chosen)),
            "The picker itself": list(_picker(whole, chosen)),
            "Tokens": list(_tokens(chosen)),
        }
    rows["Envoy"] = list(_envoy(whole, chosen))
    return ((title, panels) for title, panels in rows.items() if panels)


def _traffic(whole: str, chosen: str, gateway: GatewayPlan) -> Iterator[Json]:
    what = "Requests that were answered, a second."
    yield graph(
        "Requests by service", what, [_rate("envoy_cluster_upstream_rq_completed", chosen)], "reqps", stacked=True
    )
    bad, every = failures(chosen, _SPAN, gateway)
    what = "Share of requests answered by 500 or above, by engines, Envoy or the picker. From 5 % on somebody is paged."
    yield graph("Errors by service", what, [(f"{bad} / ({every} > 0)", "{{service}}")], "percentunit")
    client = f'{whole},envoy_http_conn_manager_prefix="gateway"'
    lines = [
        _rate("envoy_http_downstream_rq_xx", client, "envoy_response_code_class", "{{envoy_response_code_class}}xx")
    ]
    what = "All answers to clients, also those that never came to a service: no key, unknown model, too many requests."
    yield graph("Answers by status", what, lines, "reqps", stacked=True)
    rate = f"sum by (le) (rate(envoy_cluster_upstream_rq_time_bucket{{{chosen}}}[{_SPAN}]))"
    lines = [(f"histogram_quantile({share}, {rate}) / 1000", name) for name, share in _QUANTILES]
    what = "From the request's way to an engine to the end of the answer; grows with the answer's length. From buckets."
    yield graph("Time to the whole answer", what, lines, "s")
    if gateway.keys_secret:
        names = {"unauthorized": "no key or an unknown one", "forbidden": "a key that may not"}
        lines = [
            (f"sum(rate(envoy_http_api_key_auth_{key}{{{whole}}}[{_SPAN}]))", words) for key, words in names.items()
        ]
        if any(tenant.requests_per_minute for tenant in gateway.tenants):
            limited = f"sum(rate(envoy_http_local_rate_limit_rate_limited{{{whole}}}[{_SPAN}]))"
            lines.append((limited, "over requests per minute"))
        yield graph("Turned away at the door", "Requests a second that no service saw.", lines, "reqps")


def _picks(whole: str, chosen: str) -> Iterator[Json]:
    what = "Choices a second by the strategy that made them; a fallback among them is a degradation."
    lines = [_rate("picker_picks_total", chosen, "strategy")]
    yield graph("Picks by strategy", what, lines, "reqps", stacked=True)
    lesser = f"sum by (service, reason) (rate(picker_degraded_total{{{chosen}}}[{_SPAN}]))"
    share = (
        f"{lesser} / on (service) group_left () (sum by (service) (rate(picker_picks_total{{{chosen}}}[{_SPAN}])) > 0)"
    )
    what = "Share of choices made in a lesser way than configured, and why. Should be empty."
    yield graph("Degraded picks", what, [(share, "{{service}}: {{reason}}")], "percentunit")
    names = {"failure_mode_allowed": "went on without", "streams_failed": "broke off", "message_timeouts": "too late"}
    lines = [
        (f"sum(rate(envoy_http_ext_proc_picker_{key}{{{whole}}}[{_SPAN}]))", words) for key, words in names.items()
    ]
    what = "Requests a second that got no answer from the picker, and those that Envoy sent to a service without it."
    yield graph("Without the picker", what, lines, "reqps")
    hits, tokens = (
        f"sum by (service) (rate(picker_{name}_tokens_total{{{chosen}}}[{_SPAN}]))" for name in ("prefix_hit", "prompt")
    )
    what = "Share of prompt tokens that the picker thinks are cached where it sends them. The engines' own figures judge it."
    yield graph("Prefix hits", what, [(f"{hits} / ({tokens} > 0)", "{{service}}")], "percentunit", top=1)


def _refusals(environment: EnvironmentPlan, gateway: GatewayPlan, whole: str, chosen: str) -> Iterator[Json]:
    routings = [service.routing for service in environment.services]
    if any(routing.hold for routing in routings):
        lines = [(f"sum by (service) (picker_held{{{chosen}}})", "{{service}}")]
        yield graph("Requests held", "That wait for a replica or an adapter, now.", lines, "short", stacked=True)
        what = "How waiting ended: released (sent), expired, full (not even let in), left (the client went away)."
        yield graph("Ends of waiting", what, [_rate("picker_held_total", chosen, "outcome")], "reqps", stacked=True)
    if any(routing.priority for routing in routings):
        shed = f"sum by (service, priority) (rate(picker_shed_total{{{chosen}}}[{_SPAN}]))"
        what = "Requests a second turned away because replicas were full, the lowest priority first."
        yield graph("Shed", what, [(shed, "{{service}}: {{priority}}")], "reqps")
    if any(tenant.tokens_per_minute for tenant in gateway.tenants):
        what = "Requests a second of tenants that had used their tokens of the minute."
        yield graph("Over the budget of tokens", what, [_rate("picker_budget_refused_total", whole, "tenant")], "reqps")


def _picker(whole: str, chosen: str) -> Iterator[Json]:
    rate = f"sum by (le) (rate(picker_decision_seconds_bucket{{{whole}}}[{_SPAN}]))"
    lines = [(f"histogram_quantile({share}, {rate})", name) for name, share in _QUANTILES]
    what = (
        "From a whole request to the answer, without the time that it was held. From 50 ms at p99 on there is a ticket."
    )
    yield graph("Time of a decision", what, lines, "s")
    lines = [(f"sum by (service) (picker_in_flight{{{chosen}}})", "{{service}}")]
    yield graph("In flight", "Requests sent to replicas and not ended, by the pickers' own count.", lines, "short")
    lines = [(f"max by (service, state) (picker_endpoints{{{chosen}}})", "{{service}}: {{state}}")]
    yield graph("Replicas as the picker sees them", "By what it thinks of them.", lines, "short")
    lines = [
        (f"count by (version) (picker_config_info{{{whole}}})", "config {{version}}"),
        (f"min(picker_peers{{{whole}}})", "peers heard, fewest"),
    ]
    yield graph("Pickers", "By the configuration in force; and how many others each hears from.", lines, "short")


def _tokens(chosen: str) -> Iterator[Json]:
    for direction, title in (("input", "Prompt tokens by tenant"), ("output", "Generated tokens by tenant")):
        lines = [_rate("picker_tokens_total", f'{chosen},direction="{direction}"', "tenant")]
        yield graph(title, "Tokens a second, as engines reported them.", lines, "short", stacked=True)


def _envoy(whole: str, chosen: str) -> Iterator[Json]:
    client = f'{whole},envoy_http_conn_manager_prefix="gateway"'
    lines = [
        (f"sum(envoy_http_downstream_{key}_active{{{client}}})", words)
        for key, words in (("rq", "requests"), ("cx", "connections"))
    ]
    yield graph("Open requests and connections", "Of clients, now.", lines, "short")
    own = f'{chosen},envoy_cluster_name!~".+[.]spill"'
    lines = [
        (f"min by (service) (envoy_cluster_membership_healthy{{{own}}})", "{{service}} healthy"),
        (f"max by (service) (envoy_cluster_membership_total{{{own}}})", "{{service}} known"),
    ]
    what = "Replicas by Envoy's own health checks, as the replica of the gateway sees them that sees fewest."
    yield graph("Replicas as Envoy sees them", what, lines, "short")
    lines = [
        _rate("envoy_cluster_upstream_rq_retry", chosen, legend="{{service}} retried"),
        _rate("envoy_cluster_upstream_cx_destroy_remote_with_active_rq", chosen, legend="{{service}} cut off"),
    ]
    what = "Repeated before an answer began; and connections that a replica closed in the middle of a request."
    yield graph("Retries and broken connections", what, lines, "reqps")
    lines = [(f"max by (pod) (envoy_server_memory_physical_size{{{whole}}})", "{{pod}}")]
    what = f"Of {MEMORY // 2**20} MiB; before they are full, requests are refused."
    yield graph("Memory", what, lines, "bytes")


def _rate(counter: str, chosen: str, by: str = "service", legend: str = "") -> Target:
    return f"sum by ({by}) (rate({counter}{{{chosen}}}[{_SPAN}]))", legend or f"{{{{{by}}}}}"
