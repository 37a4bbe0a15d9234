"""Plan -> who may reach the pods: the engine's port, and nothing else but the pods of one replica each other.

Ingress only: what an engine may reach (stores, telemetry) is a matter of the cluster, not of a model.
"""

from __future__ import annotations

from aibrix_compile.artifact import Artifact, Object, Source
from aibrix_compile.backends.objects import SERVICE_LABEL, artifact, metadata, selector
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import ServicePlan


def emit(service: ServicePlan) -> list[Artifact]:
    path: Path = ("metadata", "name")
    ingress: list[Object] = [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    if any(pool.nodes > 1 for pool in service.pools):  # collectives choose their ports themselves
        ingress.append({"from": [{"podSelector": {"matchLabels": {SERVICE_LABEL: service.name}}}]})
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(service, service.name, path),
        "spec": {"podSelector": {"matchLabels": selector(service)}, "policyTypes": ["Ingress"], "ingress": ingress},
    }
    return [artifact(f"{service.environment}/{service.name}", policy, {(): Source(service.name, path)})]
