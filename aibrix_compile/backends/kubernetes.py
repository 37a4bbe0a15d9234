"""Plan -> plain Kubernetes objects: a workload for each pool and what surrounds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from aibrix_compile.artifact import Artifact, External, Object, Source
from aibrix_compile.backends.objects import SERVE, WORKER, artifact, metadata, selector
from aibrix_compile.backends.pods import template, template_sources
from aibrix_compile.backends.sidecar import CLUSTER_CA
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import PoolPlan, ServicePlan


def emit(service: ServicePlan) -> list[Artifact]:
    """All objects of a service."""
    folder = f"{service.environment}/{service.name}"
    whole: dict[Path, Source] = {(): Source(service.name, ("metadata", "name"))}
    artifacts = [
        artifact(folder, value, whole) for value in (_config_map(service), _service(service), _headless(service))
    ]
    for pool in service.pools:
        account = metadata(service, pool.service_account, pool.path, pool.name, pool.service_account_annotations)
        pooled: list[Object] = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account, "automountServiceAccountToken": False},
        ]
        if pool.disruption_budget:
            pooled.append(_disruption_budget(service, pool))
        artifacts += [artifact(folder, value, {(): Source(service.name, pool.path)}) for value in pooled]
        artifacts.append(_workload(folder, service, pool))
    return artifacts


def externals(service: ServicePlan) -> Iterable[External]:
    """What the objects refer to and somebody else makes: Secrets, claims, priority classes."""
    namespace = service.namespace
    for pool in service.pools:
        for variable in pool.variables:
            if variable.secret:
                yield External("Secret", namespace, variable.secret, Source(service.name, variable.path))
        for volume in pool.volumes:
            if volume.kind == "claim" and service.storage is None:
                yield External("PersistentVolumeClaim", namespace, volume.source, Source(service.name, volume.path))
        for name in pool.pull_secrets:
            yield External("Secret", namespace, name, Source(service.name, (*pool.path, "imagePullSecrets")))
        for kind, name in _in_template(pool.template):
            yield External(kind, namespace, name, Source(service.name, (*pool.path, "template")))
        if service.runtime:
            yield External("ConfigMap", namespace, CLUSTER_CA, Source(service.name, pool.path))
        if pool.priority_class:
            yield External(
                "PriorityClass", "", pool.priority_class, Source(service.name, (*pool.path, "priorityClass"))
            )


_FOREIGN = {  # fields of a pod that name another object: kind, key of the name
    "secret": ("Secret", "secretName"),
    "secretKeyRef": ("Secret", "name"),
    "secretRef": ("Secret", "name"),
    "configMap": ("ConfigMap", "name"),
    "configMapKeyRef": ("ConfigMap", "name"),
    "configMapRef": ("ConfigMap", "name"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
}


def _in_template(node: Any) -> Iterator[tuple[str, str]]:
    """What the escape hatch refers to is somebody else's by its nature: the language has no such object."""
    if isinstance(node, list):
        for item in node:
            yield from _in_template(item)
    elif isinstance(node, dict):
        for field, value in node.items():
            kind, key = _FOREIGN.get(field, ("", ""))
            if kind and isinstance(value, dict) and isinstance(name := value.get(key, value.get("name")), str):
                yield kind, name
            yield from _in_template(value)


def _config_map(service: ServicePlan) -> Object:
    data = dict(
        sorted({**service.config, **({"runtime.json": service.runtime.config} if service.runtime else {})}.items())
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(service, service.config_map, ("spec", "engine")),
        "data": data,
    }


def _service(service: ServicePlan) -> Object:
    port = {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
    spec = {"type": "ClusterIP", "selector": selector(service, role=SERVE), "ports": [port]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(service, service.service, ("metadata", "name")),
        "spec": spec,
    }


def _headless(service: ServicePlan) -> Object:
    """Every replica's address, ready or not, where a picker or a sidecar's word is there to judge by; only those that are ready
    and stay, where Envoy alone trusts names."""
    port = {"name": "http", "port": service.port, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
    spec = {
        "clusterIP": "None",
        **({"publishNotReadyAddresses": True} if service.routing.picker or service.runtime else {}),
        "selector": selector(service, role=SERVE),
        "ports": [port],
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(service, service.headless, ("metadata", "name")),
        "spec": spec,
    }


def _disruption_budget(service: ServicePlan, pool: PoolPlan) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(service, pool.workload, (*pool.path, "replicas"), pool.name),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(service, pool.name, SERVE)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _workload(folder: str, service: ServicePlan, pool: PoolPlan) -> Artifact:
    if pool.nodes == 1:
        sources = _workload_sources(service, pool, ("spec", "template"))
        return artifact(folder, _deployment(service, pool), sources)
    group = ("spec", "leaderWorkerTemplate")
    sources = _workload_sources(service, pool, (*group, "leaderTemplate"), (*group, "workerTemplate"))
    return artifact(folder, _leader_worker_set(service, pool), sources)


def _deployment(service: ServicePlan, pool: PoolPlan) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(service, pool.workload, pool.path, pool.name),
        "spec": {
            **({} if pool.scaled else {"replicas": pool.replicas}),
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": pool.progress_deadline_seconds,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": _rolling(pool)},
            "selector": {"matchLabels": selector(service, pool.name)},
            "template": template(service, pool, SERVE),
        },
    }


def _leader_worker_set(service: ServicePlan, pool: PoolPlan) -> Object:
    """A replica is a group of pods, one on each node: the leader answers, a lost pod restarts its whole group."""
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": metadata(service, pool.workload, pool.path, pool.name),
        "spec": {
            **({} if pool.scaled else {"replicas": pool.replicas}),
            "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": _rolling(pool)},
            "leaderWorkerTemplate": {
                "size": pool.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": template(service, pool, SERVE),
                "workerTemplate": template(service, pool, WORKER),
            },
        },
    }


def _rolling(pool: PoolPlan) -> Object:
    return {"maxSurge": pool.rollout.max_surge, "maxUnavailable": pool.rollout.max_unavailable}


def _workload_sources(service: ServicePlan, pool: PoolPlan, *templates: Path) -> dict[Path, Source]:
    of_pool: dict[Path, str] = {
        ("metadata", "name"): "name",
        ("spec", "replicas"): "replicas",
        ("spec", "leaderWorkerTemplate", "size"): "parallelism",
    }
    sources: dict[Path, Source] = {(): Source(service.name, pool.path)}
    sources |= {path: Source(service.name, (*pool.path, name)) for path, name in of_pool.items()}
    sources |= {
        ("metadata", "labels"): Source(service.name, ("metadata", "labels")),
        ("spec", "strategy"): Source(service.name, ("spec", "rollout")),
        ("spec", "rolloutStrategy"): Source(service.name, ("spec", "rollout")),
        ("spec", "progressDeadlineSeconds"): Source(service.name, ("spec", "model", "uri")),
    }
    for path in templates:
        sources |= template_sources(service, pool, path)
    return sources
