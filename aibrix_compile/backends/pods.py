"""The pod of a pool: what every replica is, whichever workload makes it. Shared by backends, as objects.py is."""

from __future__ import annotations

from collections.abc import Iterable

from aibrix_compile.artifact import Object, Source
from aibrix_compile.backends.objects import (
    CONFIG_ANNOTATION,
    ROLE_LABEL,
    SERVE,
    binary,
    cores,
    labels,
    merged,
    selector,
)
from aibrix_compile.backends.sidecar import engine_mounts, sidecar, sidecar_volumes
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import PoolPlan, Prefetch, ServicePlan, Variable, Volume

USER = 1000
WORKER_GRACE = 30
"""Seconds. A worker is told to stop when its leader has gone and has nothing to drain; and while it starts it is deaf - PID 1
without a handler loses SIGTERM - so that a longer grace only delays the group that comes after it."""
_PROBE_PERIOD = 10


def template(service: ServicePlan, pool: PoolPlan, role: str) -> Object:
    """The pod template, the escape hatch of the spec merged into it last."""
    labelled = labels(service, pool.name) | {ROLE_LABEL: role}
    base = {
        "metadata": {"labels": labelled, "annotations": {CONFIG_ANNOTATION: service.config_hash}},
        "spec": _pod(service, pool, role),
    }
    return dict(merged(base, pool.template))


def _pod(service: ServicePlan, pool: PoolPlan, role: str) -> Object:
    spec: Object = {
        "serviceAccountName": pool.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service called vllm would set VLLM_PORT
        "terminationGracePeriodSeconds": pool.grace_seconds if role == SERVE else WORKER_GRACE,
        "securityContext": pod_security(),
    }
    if pool.priority_class:
        spec["priorityClassName"] = pool.priority_class
    if pool.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in pool.pull_secrets]
    if pool.node_selector:
        spec["nodeSelector"] = dict(sorted(pool.node_selector.items()))
    if pool.tolerations:
        spec["tolerations"] = [dict(one) for one in pool.tolerations]
    if pool.nodes == 1:  # with one replica as well: the second must not restart the first
        chosen = selector(service, pool.name)
        spec["topologySpreadConstraints"] = [
            _spread(key, chosen) for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ]
    runtime = service.runtime if role == SERVE else None
    before = [] if pool.prefetch is None else [_prefetch(service, pool, pool.prefetch)]
    if before or runtime:
        spec["initContainers"] = before + ([sidecar(runtime, SECURITY)] if runtime else [])
    spec["containers"] = [_engine(service, pool) if role == SERVE else _worker(service, pool)]
    spec["volumes"] = [_volume(volume) for volume in pool.volumes] + (sidecar_volumes(runtime) if runtime else [])
    return spec


def _spread(key: str, chosen: dict[str, str]) -> Object:
    """Replicas of one revision apart where there is room; never at the price of not running."""
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": chosen},
        "matchLabelKeys": ["pod-template-hash"],
    }


def pod_security() -> Object:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",  # else every start walks through all weights
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _engine(service: ServicePlan, pool: PoolPlan) -> Object:
    process = _process(service, pool, [argument.text for argument in pool.arguments])
    if service.runtime:
        process["volumeMounts"] += engine_mounts(service.runtime)
    return {
        **process,
        "ports": [{"name": "http", "containerPort": service.port, "protocol": "TCP"}],
        "startupProbe": _probe(period=_PROBE_PERIOD, failures=-(-pool.startup_seconds // _PROBE_PERIOD)),
        "readinessProbe": _probe(period=5, failures=3),
        "livenessProbe": _probe(period=_PROBE_PERIOD, failures=6),
        "lifecycle": {"preStop": {"exec": {"command": _drain(service, pool)}}},
    }


def _worker(service: ServicePlan, pool: PoolPlan) -> Object:
    """A further pod of a replica: it lives and dies with its leader, which is the one that is probed and drained."""
    return _process(service, pool, [argument.text for argument in pool.worker_arguments])


def _process(service: ServicePlan, pool: PoolPlan, arguments: list[str]) -> Object:
    gpus = {pool.gpu_resource: str(pool.gpus)} if pool.gpus else {}
    memory, disk = binary(pool.memory), binary(pool.ephemeral_storage)
    return {
        "name": "engine",
        "image": service.image,
        "command": list(service.command),
        "args": arguments,
        "env": environment(pool.variables),
        "resources": {
            "requests": {"cpu": cores(pool.cpu), "memory": memory, "ephemeral-storage": disk, **gpus},
            "limits": {"memory": memory, "ephemeral-storage": disk, **gpus},  # no CPU limit: throttling delays tokens
        },
        "securityContext": SECURITY,
        "volumeMounts": [_mount(volume) for volume in pool.volumes],
    }


SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def _drain(service: ServicePlan, pool: PoolPlan) -> list[str]:
    config = next(volume for volume in pool.volumes if volume.kind == "config")
    (script,) = (name for name in service.config if name.startswith("drain"))
    return ["python3", f"{config.mount}/{script}", str(pool.propagation_seconds), str(pool.drain_seconds)]


def _probe(period: int, failures: int) -> Object:
    """vLLM's /health is 200 once it can serve and 503 once its engine is dead; a busy engine may take seconds."""
    return {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _prefetch(service: ServicePlan, pool: PoolPlan, prefetch: Prefetch) -> Object:
    wanted = {"scratch", "tmp", "model"}
    return {
        "name": "prefetch",
        "image": service.image,
        "command": list(prefetch.command),
        "env": environment(prefetch.variables),
        "resources": {
            "requests": {"cpu": "1", "memory": "2Gi", "ephemeral-storage": binary(pool.ephemeral_storage)},
            "limits": {"memory": "2Gi", "ephemeral-storage": binary(pool.ephemeral_storage)},
        },
        "securityContext": SECURITY,
        "volumeMounts": [_mount(volume) for volume in pool.volumes if volume.name in wanted],
    }


def environment(variables: Iterable[Variable]) -> list[Object]:
    return [_variable(variable) for variable in variables]


def _variable(variable: Variable) -> Object:
    if variable.secret:
        return {"name": variable.name, "valueFrom": {"secretKeyRef": {"name": variable.secret, "key": variable.key}}}
    return {"name": variable.name, "value": variable.value}


def _mount(volume: Volume) -> Object:
    return {"name": volume.name, "mountPath": volume.mount, **({"readOnly": True} if volume.read_only else {})}


def _volume(volume: Volume) -> Object:
    if volume.kind == "config":
        return {"name": volume.name, "configMap": {"name": volume.source, "defaultMode": 0o444}}
    if volume.kind == "claim":
        return {
            "name": volume.name,
            "persistentVolumeClaim": {"claimName": volume.source, "readOnly": volume.read_only},
        }
    medium = {"medium": "Memory"} if volume.kind == "memory" else {}
    return {"name": volume.name, "emptyDir": {**medium, "sizeLimit": binary(volume.size)}}


def template_sources(service: ServicePlan, pool: PoolPlan, at_path: Path) -> dict[Path, Source]:
    """Which line of the spec made which field of the pod template that stands at `at_path`; the longest prefix wins."""

    def at(*path: str | int) -> Source:
        return Source(service.name, path)

    def of_pool(*path: str | int) -> Source:
        return Source(service.name, (*pool.path, *path))

    spec: Path = (*at_path, "spec")
    container: Path = (*spec, "containers", 0)
    sources: dict[Path, Source] = {
        (*at_path, "metadata", "labels"): at("metadata", "labels"),
        (*spec, "terminationGracePeriodSeconds"): at("spec", "routing", "timeout"),
        (*spec, "serviceAccountName"): of_pool("serviceAccount"),
        (*spec, "nodeSelector"): of_pool("accelerator"),
        (*spec, "tolerations"): of_pool("accelerator"),
        (*spec, "priorityClassName"): of_pool("priorityClass"),
        (*spec, "imagePullSecrets"): of_pool("imagePullSecrets"),
        (*spec, "topologySpreadConstraints"): of_pool("replicas"),
        (*spec, "initContainers"): at("spec", "model", "loading", "method"),
        (*container, "image"): Source(service.name, service.image_path),
        (*container, "resources"): of_pool("resources"),
        (*container, "startupProbe"): at("spec", "model", "uri"),
        (*container, "lifecycle"): at("spec", "routing", "timeout"),
    }
    for part in ("requests", "limits"):
        resources: Path = (*container, "resources", part)
        sources[(*resources, "cpu")] = of_pool("resources", "cpu")
        sources[(*resources, "memory")] = of_pool("resources", "memory")
        sources[(*resources, "ephemeral-storage")] = of_pool("resources", "ephemeralStorage")
        sources[(*resources, pool.gpu_resource)] = of_pool("parallelism")
    for index, argument in enumerate(pool.arguments):
        sources[(*container, "args", index)] = Source(service.name, argument.path)
    for index, variable in enumerate(pool.variables):
        sources[(*container, "env", index)] = Source(service.name, variable.path)
    for index, volume in enumerate(pool.volumes):
        for place in ((*spec, "volumes"), (*container, "volumeMounts")):
            sources[(*place, index)] = Source(service.name, volume.path)
    return sources
