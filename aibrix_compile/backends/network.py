"""Plan -> who may reach the pods: the gateway, where there is one, and the pods of one replica each other.

Ingress only: what an engine may reach (stores, telemetry) is a matter of the cluster, not of a model.
"""

from __future__ import annotations

from aibrix_compile.artifact import Artifact, Object, Source
from aibrix_compile.backends.objects import CONTROLLER_LABEL, GATEWAY_LABEL, SERVICE_LABEL, artifact, metadata, selector
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import EnvironmentPlan, ServicePlan


def emit(environment: EnvironmentPlan) -> list[Artifact]:
    return [_policy(service, environment) for service in environment.services]


def _policy(service: ServicePlan, environment: EnvironmentPlan) -> Artifact:
    path: Path = ("metadata", "name")
    callers = _callers(service, environment)
    ingress: list[Object] = [{**({"from": callers} if callers else {}), "ports": [{"port": "http", "protocol": "TCP"}]}]
    if service.runtime is not None:
        here = {"matchLabels": {"kubernetes.io/metadata.name": service.namespace}}
        chosen = {"matchExpressions": [{"key": CONTROLLER_LABEL, "operator": "Exists"}]}
        controllers = {"namespaceSelector": here, "podSelector": chosen}
        ingress.append({"from": [*callers, controllers], "ports": [{"port": "runtime", "protocol": "TCP"}]})
    if any(pool.nodes > 1 for pool in service.pools):  # collectives choose their ports themselves
        ingress.append({"from": [{"podSelector": {"matchLabels": {SERVICE_LABEL: service.name}}}]})
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(service, service.name, path),
        "spec": {"podSelector": {"matchLabels": selector(service)}, "policyTypes": ["Ingress"], "ingress": ingress},
    }
    return artifact(f"{service.environment}/{service.name}", policy, {(): Source(service.name, path)})


def _callers(service: ServicePlan, environment: EnvironmentPlan) -> list[Object]:
    """Without a gateway anybody may call the engine: none are named. With one, Envoy and the picker; and the Prometheus that a
    PodMonitor speaks to, by the label that its operator gives it."""
    gateway = environment.gateway
    if gateway is None:
        return []
    home = {"matchLabels": {"kubernetes.io/metadata.name": gateway.namespace}}
    pods = {"matchLabels": {GATEWAY_LABEL: environment.name}}
    callers: list[Object] = [{"namespaceSelector": home, "podSelector": pods}]
    if service.monitoring is not None and service.monitoring.pod_monitor:
        prometheus = {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}
        callers.append({"namespaceSelector": {}, "podSelector": prometheus})
    return callers
