"""Plan -> the gateway of an environment: Envoy in front of all its services, and the picker behind Envoy.

clusters   where requests can go          envoy      the four files, and the static form
gate       which model is whose           workloads  pods and what surrounds them
routes     what is open, and how          picker     what the picker must know
listeners  what every request passes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from aibrix_compile.artifact import Artifact, External, Object, Source
from aibrix_compile.backends.gateway import dashboard, envoy, monitoring, workloads
from aibrix_compile.backends.gateway.clusters import Place
from aibrix_compile.backends.gateway.listeners import KEYS_FILE
from aibrix_compile.backends.gateway.picker import configuration, functions
from aibrix_compile.backends.objects import PICKER_ACCOUNT, artifact
from aibrix_compile.diagnostics import Path
from aibrix_compile.emit import yaml_text
from aibrix_compile.plan import EnvironmentPlan, GatewayPlan

__all__ = ["KEYS_FILE", "Place"]
FOLDER = "gateway"
LARGEST = 1_000_000
"""Bytes of one ConfigMap: Kubernetes allows 1 MiB, its keys and the object around them included."""


def place(gateway: GatewayPlan) -> Place:
    """Where Envoy runs in its pod."""
    host = f"{gateway.picker}.{gateway.namespace}.svc.cluster.local."
    return dataclasses.replace(envoy.IN_POD, picker_host=host)


def static(environment: EnvironmentPlan, where: Place | None = None) -> dict[str, Any]:
    """Envoy's configuration in one document, of an environment that has a gateway."""
    assert environment.gateway is not None
    return envoy.static(environment, environment.gateway, where or place(environment.gateway))


def files(environment: EnvironmentPlan, where: Place | None = None) -> dict[str, dict[str, Any]]:
    """The same in the files that Envoy watches, by the folder that each stands in."""
    assert environment.gateway is not None
    return envoy.files(environment, environment.gateway, where or place(environment.gateway))


def emit(environment: EnvironmentPlan) -> list[Artifact]:
    """All objects, none without a gateway."""
    gateway = environment.gateway
    if gateway is None:
        return []
    source: dict[Path, Source] = {(): Source("", gateway.path)}
    return [artifact(f"{environment.name}/{FOLDER}", value, source) for value in _objects(environment, gateway)]


def sizes(artifacts: list[Artifact]) -> Iterator[tuple[str, int]]:
    """ConfigMaps of a gateway that Kubernetes would refuse, and their bytes."""
    for one in artifacts:
        if one.object["kind"] == "ConfigMap":
            size = sum(len(text.encode()) for text in one.object["data"].values())
            if size > LARGEST:
                yield one.object["metadata"]["name"], size


def externals(environment: EnvironmentPlan) -> Iterator[External]:
    """Secrets, and the account that `platform` makes."""
    gateway = environment.gateway
    if gateway is None:
        return
    for name, field in ((gateway.keys_secret, "apiKeys"), (gateway.tls_secret, "tls")):
        if name:
            yield External("Secret", gateway.namespace, name, Source("", (*gateway.path, field)))
    if gateway.picker:
        yield External("ServiceAccount", gateway.namespace, PICKER_ACCOUNT, Source("", gateway.path))


def _objects(environment: EnvironmentPlan, gateway: GatewayPlan) -> Iterator[Object]:
    name, role = environment.name, workloads.GATEWAY
    texts = {file: yaml_text(content) for file, content in files(environment).items()}
    for file, text in texts.items():
        yield workloads.config_map(name, gateway, f"{gateway.name}-{file}", role, {f"{file}.yaml": text})
    scripts = workloads.scripts(gateway)
    yield workloads.config_map(name, gateway, f"{gateway.name}-scripts", role, scripts)
    yield workloads.account(name, gateway)
    yield workloads.service(name, gateway)
    yield from workloads.network_policies(name, gateway)
    yield from monitoring.objects(environment, gateway)
    if (board := dashboard.config_map(environment, gateway)) is not None:
        yield board
    fixed = "\n".join([texts["bootstrap"], *scripts.values()])
    yield workloads.envoy(name, gateway, environment.services, fixed)
    if gateway.replicas > 1:
        yield workloads.disruption_budget(name, gateway, gateway.name, role)
    if not gateway.picker:
        return
    role, modules = workloads.PICKER, functions(environment)
    config = {"picker.json": configuration(environment, gateway)}
    yield workloads.config_map(name, gateway, f"{gateway.picker}-config", role, config)
    if modules:
        yield workloads.config_map(name, gateway, f"{gateway.picker}-functions", role, modules)
    yield workloads.picker_service(name, gateway)
    yield workloads.picker(name, gateway, modules, runtime=any(one.runtime for one in environment.services))
    if gateway.picker_replicas > 1:
        yield workloads.disruption_budget(name, gateway, gateway.picker, role)
