"""Plan -> the picker's configuration: what it must know of services, as one JSON document that it reads again when it changes."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from aibrix_compile.backends.gateway.clusters import cluster_services, host
from aibrix_compile.backends.gateway.routes import stand_ins
from aibrix_compile.emit import json_text
from aibrix_compile.plan import AdaptersPlan, EnvironmentPlan, GatewayPlan, PoolPlan, ServicePlan

_NO_ADAPTERS = AdaptersPlan(0, 0, 0, "reject", 0.0, ())


def configuration(environment: EnvironmentPlan, gateway: GatewayPlan) -> str:
    """The text of picker.json; `version` is the hash of all the rest."""
    hidden = stand_ins(environment)
    # the first service that has a name owns it: those that stand in come last
    services = sorted(environment.services, key=lambda one: one.name in hidden)
    content = {
        "clusters": dict(cluster_services(environment)),
        "services": {service.name: _service(service) for service in services},
        "tenants": {tenant.name: {"tokens_per_minute": tenant.tokens_per_minute} for tenant in gateway.tenants},
    }
    version = hashlib.sha256(json_text(content).encode()).hexdigest()[:12]
    return json_text({"version": version, **content})


def functions(environment: EnvironmentPlan) -> dict[str, str]:
    """Files with the functions of custom strategies."""
    found = {}
    for routing in (service.routing for service in environment.services):
        if routing.source:
            found[f"{routing.parameters['function'].partition(':')[0]}.py"] = routing.source
    return dict(sorted(found.items()))


def _service(service: ServicePlan) -> dict[str, Any]:
    routing, adapters = service.routing, service.adapters or _NO_ADAPTERS
    given = routing.parameters
    strategy = routing.strategy
    return {
        "namespace": service.namespace,
        "host": host(service).rstrip("."),
        "port": service.port,
        "runtime": {"port": service.runtime.port} if service.runtime else None,
        "model": service.served_name,
        "metrics": dict(service.signals),
        "pools": {pool.name: _pool(pool, adapters) for pool in service.pools},
        "strategy": strategy,
        "weights": dict(given) if strategy == "weighted" else {},
        "function": given["function"] if strategy == "custom" else "",
        "session": {key: given.get(key, "") if strategy == "session" else "" for key in ("header", "cookie")},
        "fallback": routing.fallback,
        "hold": dataclasses.asdict(routing.hold) if routing.hold else None,
        "priority": list(routing.priority),
        "when_missing": adapters.when_missing,
        "adapters": {
            "everywhere": [one.name for one in adapters.items if one.everywhere],
            "placed": [one.name for one in adapters.items if not one.everywhere],
        },
        "tenants": None
        if service.tenants is None
        else {name: None if some is None else list(some) for name, some in service.tenants.items()},
    }


def _pool(pool: PoolPlan, adapters: AdaptersPlan) -> dict[str, Any]:
    profile = dataclasses.asdict(pool.speed.profile)
    return {
        "profile": {name: profile[name] for name in profile if name not in ("source", "error")}
        | {"source": "", "error": ""},
        "max_num_seqs": pool.speed.max_num_seqs,
        "slots": max(1, adapters.max_loaded),
        "block_tokens": pool.speed.profile.block_tokens,
    }
