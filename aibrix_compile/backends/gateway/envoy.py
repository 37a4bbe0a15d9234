"""Plan -> Envoy's configuration: one static form, which `envoy --mode validate` can judge whole, and the files that it is
cut into, which Envoy watches, so that a change needs no restart.
"""

from __future__ import annotations

import hashlib
from typing import Any

from aibrix_compile.backends.gateway.clusters import TYPE, Config, Place, clusters
from aibrix_compile.backends.gateway.listeners import CERTIFICATE, certificate, listeners
from aibrix_compile.backends.gateway.routes import route_configuration
from aibrix_compile.emit import json_text
from aibrix_compile.plan import EnvironmentPlan, GatewayPlan

FOLDER = "/etc/envoy"
MEMORY = 2 * 2**30
"""Bytes of one gateway pod; Envoy sheds load before they are used up."""
IN_POD = Place("0.0.0.0", 8080, 8081, 9901, FOLDER, "/run/keys", "/etc/tls", "", 9002, 9003)


def folders(gateway: GatewayPlan) -> tuple[str, ...]:
    """Each is a ConfigMap and a folder with one file: mounted whole, its swap is one step."""
    return ("bootstrap", "listeners", "clusters", "routes", *([CERTIFICATE] if gateway.tls_secret else []))


def static(environment: EnvironmentPlan, gateway: GatewayPlan, place: Place) -> Config:
    """All in one document."""
    routes = {"route_config": route_configuration(environment, gateway)}
    return {
        **_process(gateway, place),
        "static_resources": {
            "listeners": listeners(environment, gateway, place, routes, {}),
            "clusters": clusters(environment, place),
            **({"secrets": [certificate(place)]} if gateway.tls_secret else {}),
        },
    }


def files(environment: EnvironmentPlan, gateway: GatewayPlan, place: Place) -> dict[str, Config]:
    """The same for files below `place.folder`, by their folders. `version_info`, which Envoy's metrics repeat, is the hash of
    the content."""
    discovered = {"rds": {"route_config_name": "gateway", "config_source": _source(place, "routes")}}
    file = f"{place.folder}/{CERTIFICATE}/{CERTIFICATE}.yaml"
    secret = {"sds_config": {"resource_api_version": "V3", "path_config_source": {"path": file}}}
    listed = {
        "listeners": ("config.listener.v3.Listener", listeners(environment, gateway, place, discovered, secret)),
        "clusters": ("config.cluster.v3.Cluster", clusters(environment, place)),
        "routes": ("config.route.v3.RouteConfiguration", [route_configuration(environment, gateway)]),
    }
    if gateway.tls_secret:
        listed[CERTIFICATE] = ("extensions.transport_sockets.tls.v3.Secret", [certificate(place)])
    bootstrap = _process(gateway, place) | {
        "dynamic_resources": {"lds_config": _source(place, "listeners"), "cds_config": _source(place, "clusters")}
    }
    found: dict[str, Config] = {"bootstrap": bootstrap}
    for name, (kind, resources) in listed.items():
        typed = [{"@type": f"{TYPE}envoy.{kind}", **one} for one in resources]
        version = hashlib.sha256(json_text(typed).encode()).hexdigest()[:12]
        found[name] = {"version_info": version, "resources": typed}
    return found


def _source(place: Place, name: str) -> Config:
    folder = f"{place.folder}/{name}"
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": f"{folder}/{name}.yaml", "watched_directory": {"path": folder}},
    }


def _process(gateway: GatewayPlan, place: Place) -> Config:
    """What is fixed when Envoy starts."""
    monitors: dict[str, Any] = {
        "fixed_heap": ("fixed_heap.v3.FixedHeapConfig", {"max_heap_size_bytes": MEMORY * 9 // 10}),
        "global_downstream_max_connections": (
            "downstream_connections.v3.DownstreamConnectionsConfig",
            {"max_active_downstream_connections": 20000},
        ),
    }
    heap = "envoy.resource_monitors.fixed_heap"
    return {
        "node": {"id": gateway.name, "cluster": gateway.name},
        # never more than loopback: it can shut Envoy down, and shows keys; /metrics comes through the listener "ops"
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": place.admin_port}}},
        "overload_manager": {
            "refresh_interval": "0.25s",
            "resource_monitors": [
                {
                    "name": f"envoy.resource_monitors.{name}",
                    "typed_config": {"@type": f"{TYPE}envoy.extensions.resource_monitors.{kind}", **settings},
                }
                for name, (kind, settings) in monitors.items()
            ],
            "actions": [
                {
                    "name": f"envoy.overload_actions.{name}",
                    "triggers": [{"name": heap, "threshold": {"value": at}}],
                }
                for name, at in (("stop_accepting_requests", 0.95), ("shrink_heap", 0.9))
            ],
        },
    }
