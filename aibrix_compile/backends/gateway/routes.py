"""Plan -> Envoy's routes: an allow-list of paths, a route for each service, and an answer for everything else.

A request meets the routes twice: by its path alone, and again when the gate has looked its model up. RDS holds all that changes often - names, tenants, weights - because a change of a listener drains connections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from aibrix_compile.backends.gateway import gate
from aibrix_compile.backends.gateway.clusters import HINT, NOWHERE, TYPE, Config, spilled
from aibrix_compile.backends.gateway.gate import Route
from aibrix_compile.plan import EnvironmentPlan, GatewayPlan, RoutingPlan, ServicePlan

GATE, PICK = "aibrix.gate", "aibrix.picker"
"""Names of the filters that routes configure."""
_MODELS = r"/v1/models(/[^/]+(/[^/]+)*)?"
_POST, _GET = ({"name": ":method", "string_match": {"exact": method}} for method in ("POST", "GET"))
_JSON = [
    {"header": {"key": "content-type", "value": "application/json"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
]
_RETRY = [{"header": {"key": "retry-after", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]


def stand_ins(environment: EnvironmentPlan) -> frozenset[str]:
    """Services that answer in the place of others, under their names."""
    plans = [service.routing for service in environment.services]
    return frozenset(name for one in plans for name in (one.canary.service if one.canary else "", one.spill_to) if name)


def route_configuration(environment: EnvironmentPlan, gateway: GatewayPlan) -> Config:
    """The whole of RDS."""
    named = {service.name: service for service in environment.services}
    chosen = gate.routes(environment.services, stand_ins(environment))
    paths = "|".join(map(re.escape, gate.PATHS))
    routes = [_service(route, paths, named) for route in chosen]
    # what the gate does not answer it gives another route; an error in it ends here, where nothing answers
    unread = {"safe_regex": {"regex": paths}, "headers": [_POST]}
    routes.append({"name": "unread", "match": unread, "route": {"cluster": NOWHERE}, **_unpicked()})
    routes += [*_models(environment, gateway), _error("nothing", {"prefix": "/"}, 404, "there is no such path here")]
    table = {"@type": f"{TYPE}envoy.extensions.filters.http.lua.v3.LuaPerRoute"}
    return {
        "name": "gateway",
        "max_direct_response_body_size_bytes": 1048576,  # lists of models
        "request_headers_to_remove": [HINT, "x-gateway-reason"],
        "response_headers_to_add": _headers(gateway),
        "virtual_hosts": [
            {
                "name": "gateway",
                "domains": _domains(gateway),
                "request_body_buffer_limit": gateway.body_limit,  # what the picker's filter and a retry may hold
                "include_attempt_count_in_response": gateway.headers,
                "typed_per_filter_config": {
                    GATE: {**table, "source_code": {"inline_string": gate.code(chosen, named)}}
                },
                "routes": routes,
            }
        ],
    }


def _headers(gateway: GatewayPlan) -> list[Config]:
    """What each answer says of its way here."""
    known: dict[str, tuple[str, str]] = {}
    if gateway.headers:
        told = "OVERWRITE_IF_EXISTS_OR_ADD"
        known |= {
            "x-gateway-endpoint": ("%UPSTREAM_HOST%", told),
            "x-gateway-service": ("%UPSTREAM_CLUSTER%", told),
            "x-gateway-strategy": ("%DYNAMIC_METADATA(gateway:strategy)%", told),
            "x-gateway-reason": ("%DYNAMIC_METADATA(gateway:reason)%", told),
        }
    # whoever is answered by another model than the one that was asked for is told so, whatever else is
    known["x-gateway-answered-by"] = ("%DYNAMIC_METADATA(gateway:answered_by)%", "OVERWRITE_IF_EXISTS_OR_ADD")
    return [
        {"header": {"key": key, "value": value}, "append_action": action, "keep_empty_value": False}
        for key, (value, action) in known.items()
    ]


def _domains(gateway: GatewayPlan) -> list[str]:
    if not gateway.hostname:
        return ["*"]
    inside = [gateway.name]
    for part in (gateway.namespace, "svc", "cluster.local"):
        inside.append(f"{inside[-1]}.{part}")
    return [name for host in (gateway.hostname, *inside) for name in (host, f"{host}:*")]


def _service(route: Route, paths: str, named: Mapping[str, ServicePlan]) -> Config:
    routing = route.service.routing
    action: Config = {
        "timeout": _seconds(routing.timeout_seconds),
        "idle_timeout": _seconds(routing.idle_seconds),
        "retry_policy": _retries(routing),
    }
    if route.canary and routing.canary is not None:
        other = named[routing.canary.service]
        share = round(routing.canary.share * 10000)
        weights = ((spilled(route.service), 10000 - share), (spilled(other), share))
        action["weighted_clusters"] = {"clusters": [{"name": name, "weight": weight} for name, weight in weights]}
    else:
        action["cluster"] = spilled(route.service)
    if routing.strategy == "session" and not routing.picker:
        action["hash_policy"] = [_session(routing)]
    chosen = {"filter": "gateway", "path": [{"key": "route"}], "value": {"string_match": {"exact": route.name}}}
    return {
        "name": route.name,
        "match": {"safe_regex": {"regex": paths}, "headers": [_POST], "dynamic_metadata": [chosen]},
        "route": action,
        "typed_per_filter_config": {PICK: _picking(route)},
    }


def _picking(route: Route) -> Config:
    """Whether the picker is asked, and what becomes of the request if it does not answer: an adapter that is only somewhere
    is refused, because a guess would end as the engine's 404."""
    per_route = {"@type": f"{TYPE}envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"}
    routing = route.service.routing
    if not routing.picker:
        return {**per_route, "disabled": True}
    serve = routing.when_picker_down == "serve" and not route.placed
    return {**per_route, "overrides": {"failure_mode_allow": serve}}


def _retries(routing: RoutingPlan) -> Config:
    """Only before an answer has begun; Envoy never repeats what a client has seen a part of."""
    codes = [int(one) for one in routing.retry_on if one.isdecimal()]
    named = [one for one in routing.retry_on if not one.isdecimal()]
    policy: Config = {
        "retry_on": ",".join([*named, *(["retriable-status-codes"] if codes else [])]),
        "num_retries": routing.attempts,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "host_selection_retry_max_attempts": 5,
    }
    if codes:
        policy["retriable_status_codes"] = codes
    if routing.spill_to:
        name, proto = "previous_priorities", "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
        settings = {"@type": f"{TYPE}envoy.extensions.{proto}", "update_frequency": 1}
        policy["retry_priority"] = {"name": f"envoy.retry_priorities.{name}", "typed_config": settings}
    else:
        proto = "retry.host.previous_hosts.v3.PreviousHostsPredicate"
        settings = {"@type": f"{TYPE}envoy.extensions.{proto}"}
        policy["retry_host_predicate"] = [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": settings}
        ]
    return policy


def _session(routing: RoutingPlan) -> Config:
    header, cookie = routing.parameters.get("header"), routing.parameters.get("cookie")
    return {"header": {"header_name": header}} if header else {"cookie": {"name": cookie}}


def _models(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Config]:
    """/v1/models: the picker answers, or, where there is none, Envoy with what was compiled in."""
    listing = {"safe_regex": {"regex": _MODELS}, "headers": [_GET]}
    if gateway.picker:
        route = _error("models", listing, 503, "no picker is there to say which models there are")
        del route["typed_per_filter_config"][PICK]
        yield route
        return
    hidden = stand_ins(environment)
    shown = [service for service in environment.services if service.name not in hidden]
    for tenant in [one.name for one in gateway.tenants] or [""]:
        names = [one.served_name for one in shown if one.tenants is None or tenant in one.tenants]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "aibrix"} for name in names]
        headers = [_GET, {"name": "x-tenant", "string_match": {"exact": tenant}}] if tenant else [_GET]
        for name, one in (("", {"object": "list", "data": data}), *zip(names, data, strict=True)):
            path = f"/v1/models/{name}" if name else "/v1/models"
            yield _direct(f"{path} {tenant}".strip(), {"path": path, "headers": headers}, 200, json.dumps(one))
    yield _error("models", listing, 404, "there is no such model here")


def _error(name: str, match: Config, status: int, message: str) -> Config:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": status}}
    return _direct(name, match, status, json.dumps(body))


def _direct(name: str, match: Config, status: int, body: str) -> Config:
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "response_headers_to_add": _JSON + (_RETRY if status == 503 else []),
        **_unpicked(),
    }


def _unpicked() -> Config:
    kind = f"{TYPE}envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
    return {"typed_per_filter_config": {PICK: {"@type": kind, "disabled": True}}}


def _seconds(value: float) -> str:
    return f"{value:g}s"
