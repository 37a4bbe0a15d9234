"""Plan -> Envoy's clusters: one for each service and each pair of services, the picker, Envoy's own admin port.

The numbers are those that were tried against Envoy 1.40; each has its reason beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aibrix_compile.plan import EnvironmentPlan, ServicePlan

Config = dict[str, Any]
TYPE = "type.googleapis.com/"
ADMIN, PICKER, NOWHERE = "envoy-admin", "envoy-picker", "envoy-nowhere"
HINT = "x-gateway-destination-endpoint"


@dataclass(frozen=True, slots=True)
class Place:
    """Where Envoy runs. Folders hold the files that it reads: listeners, clusters, routes, keys and certificate."""

    listen: str
    port: int
    ops_port: int
    admin_port: int
    folder: str
    keys: str
    tls: str
    picker_host: str
    picker_port: int
    picker_health_port: int


def spilled(service: ServicePlan) -> str:
    """The cluster that requests of a service go to: its own, or the one that has its stand-in behind it."""
    return f"{service.name}.spill" if service.routing.spill_to else service.name


def clusters(environment: EnvironmentPlan, place: Place) -> list[Config]:
    """All clusters, services first."""
    named = {service.name: service for service in environment.services}
    found = []
    for service in environment.services:
        found.append(_engines(service.name, (service,)))
        if service.routing.spill_to:
            found.append(_engines(spilled(service), (service, named[service.routing.spill_to])))
    if environment.gateway is not None and environment.gateway.picker:
        found.append(_picker(place))
    found.append(_static(ADMIN, "127.0.0.1", place.admin_port))
    found.append({"name": NOWHERE, "type": "STATIC", "load_assignment": {"cluster_name": NOWHERE}})
    return found


def cluster_services(environment: EnvironmentPlan) -> Iterator[tuple[str, list[str]]]:
    """What a cluster's name means to the picker: services, the preferred one first."""
    for service in environment.services:
        yield service.name, [service.name]
        if service.routing.spill_to:
            yield spilled(service), [service.name, service.routing.spill_to]


def host(service: ServicePlan) -> str:
    """Of the headless Service: an address for each replica. The dot at its end saves the search through other domains."""
    return f"{service.headless}.{service.namespace}.svc.cluster.local."


def _engines(name: str, services: tuple[ServicePlan, ...]) -> Config:
    first = services[0]
    spill = len(services) > 1
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "dns_lookup_family": "V4_PREFERRED",
        "respect_dns_ttl": False,
        "dns_refresh_rate": "1s",
        "dns_failure_refresh_rate": {"base_interval": "1s", "max_interval": "1s"},
        "dns_jitter": "0.2s",
        "ignore_health_on_host_removal": True,  # a name that is gone is gone, even if its address still answers
        "typed_dns_resolver_config": {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": f"{TYPE}envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                # over UDP an answer of more than 70 addresses is lost; two names over TCP end Envoy 1.40
                "dns_resolver_options": {} if spill else {"use_tcp_for_dns_lookups": True},
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    **({"priority": priority} if priority else {}),
                    "lb_endpoints": [{"endpoint": _endpoint(service)}],
                }
                for priority, service in enumerate(services)
            ],
        },
        "load_balancing_policy": {"policies": [{"typed_extension_config": _balancing(first)}]},
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},  # dead is dead: never send there
            "update_merge_window": "0.1s",  # else what health checks find waits up to a second
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "1s",  # else a minute until a first replica is known to be alive
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz" if all(one.runtime for one in services) else "/health"},
            }
        ],
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 10000,  # streams live long: the default of 1024 would be the limit of the service
                    "max_pending_requests": 10000,
                    "max_requests": 10000,
                    "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 100},
                }
            ]
        },
        "outlier_detection": _outliers(100 if spill else 50),
        "typed_extension_protocol_options": _http(
            {"explicit_http_config": {"http_protocol_options": {}}},
            {"idle_timeout": "4s"},  # below the 5 s after which uvicorn closes: no race for the last request
        ),
        "per_connection_buffer_limit_bytes": 1048576,
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 10}
        },
    }


def _endpoint(service: ServicePlan) -> Config:
    """Where there is a sidecar, its word counts: it knows that a replica drains while the engine still answers."""
    asked = {"health_check_config": {"port_value": service.runtime.port}} if service.runtime else {}
    return {"address": _address(host(service), service.port), **asked}


def _outliers(most: int) -> Config:
    """Gateway failures alone eject: engines answer 500 to bad input."""
    return {
        "consecutive_5xx": 1000000,
        "enforcing_consecutive_5xx": 0,
        "consecutive_gateway_failure": 3,
        "enforcing_consecutive_gateway_failure": 100,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "3s",  # back in use within five seconds of its return
        "max_ejection_time": "30s",
        "max_ejection_percent": most,
    }


def _balancing(service: ServicePlan) -> Config:
    """What the picker says, and without a picker what Envoy can do itself. The address comes from metadata, which a client
    can not set, and only members of the cluster count."""
    own = _own(service.routing.fallback if service.routing.picker else service.routing.strategy)
    if not service.routing.picker:
        return own
    return _policy(
        "override_host",
        {
            "override_host_sources": [{"metadata": {"key": "envoy.lb", "path": [{"key": HINT}]}}],
            "fallback_policy": {"policies": [{"typed_extension_config": own}]},
        },
    )


def _own(strategy: str) -> Config:
    if strategy == "random":
        return _policy("random", {})
    if (
        strategy == "session"
    ):  # a ring, with at most 1.25 x the mean; when one replica goes, some sessions of others move too
        return _policy("ring_hash", {"consistent_hashing_lb_config": {"hash_balance_factor": 125}})
    return _policy("least_request", {"selection_method": "FULL_SCAN"})


def _policy(name: str, settings: Config) -> Config:
    proto = "".join(word.capitalize() for word in name.split("_"))
    kind = f"{TYPE}envoy.extensions.load_balancing_policies.{name}.v3.{proto}"
    return {"name": f"envoy.load_balancing_policies.{name}", "typed_config": {"@type": kind, **settings}}


def _picker(place: Place) -> Config:
    keepalive = {"interval": "5s", "timeout": "2s"}
    return {
        "name": PICKER,
        "type": "STRICT_DNS",
        "connect_timeout": "0.25s",
        "dns_lookup_family": "V4_PREFERRED",
        "respect_dns_ttl": False,
        "dns_refresh_rate": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": PICKER,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": _address(place.picker_host, place.picker_port),
                                "health_check_config": {"port_value": place.picker_health_port},
                            }
                        }
                    ]
                }
            ],
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [
            {
                "timeout": "0.5s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
        # a stream to the picker lives as long as its request: the default of 1024 would be the most requests at a time
        "circuit_breakers": {
            "thresholds": [{"max_requests": 100000, "max_pending_requests": 100000, "max_connections": 1024}]
        },
        "outlier_detection": {
            "consecutive_5xx": 5,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_percent": 100,
        },
        "typed_extension_protocol_options": _http(
            {
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "connection_keepalive": keepalive,  # a frozen picker is left after seconds, not minutes
                        "initial_stream_window_size": 1048576,
                        "initial_connection_window_size": 67108864,
                    }
                }
            }
        ),
    }


def _static(name: str, address: str, port: int) -> Config:
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(address, port)}}]}],
        },
    }


def _http(protocol: Config, common: Config | None = None) -> Config:
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {"@type": TYPE + kind, **({"common_http_protocol_options": common} if common else {}), **protocol}
    return {kind: options}


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}
