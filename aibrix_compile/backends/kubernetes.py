"""Plan -> plain Kubernetes objects: a Deployment for each pool and what surrounds it."""

from __future__ import annotations

from collections.abc import Iterable

from aibrix_compile.artifact import Artifact, External, Object, Source
from aibrix_compile.backends.objects import CONFIG_ANNOTATION, artifact, binary, cores, labels, metadata, selector
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import PoolPlan, Prefetch, ServicePlan, Variable, Volume

USER = 1000
_PROBE_PERIOD = 10
_POD: Path = ("spec", "template", "spec")
_CONTAINER: Path = (*_POD, "containers", 0)


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
        artifacts.append(artifact(folder, _deployment(service, pool), _deployment_sources(service, pool)))
    return artifacts


def externals(service: ServicePlan) -> Iterable[External]:
    """What the objects refer to and somebody else makes: Secrets, claims, priority classes."""
    namespace = service.namespace
    for pool in service.pools:
        for variable in pool.variables:
            if variable.secret:
                yield External("Secret", namespace, variable.secret, Source(service.name, variable.path))
        for volume in pool.volumes:
            if volume.kind == "claim":
                yield External("PersistentVolumeClaim", namespace, volume.source, Source(service.name, volume.path))
        for name in pool.pull_secrets:
            yield External("Secret", namespace, name, Source(service.name, (*pool.path, "imagePullSecrets")))
        if pool.priority_class:
            yield External(
                "PriorityClass", "", pool.priority_class, Source(service.name, (*pool.path, "priorityClass"))
            )


def _config_map(service: ServicePlan) -> Object:
    data = dict(sorted(service.config.items()))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(service, service.config_map, ("spec", "engine")),
        "data": data,
    }


def _service(service: ServicePlan) -> Object:
    port = {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
    spec = {"type": "ClusterIP", "selector": selector(service), "ports": [port]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(service, service.service, ("metadata", "name")),
        "spec": spec,
    }


def _headless(service: ServicePlan) -> Object:
    """Every replica's address, ready or not: the gateway judges for itself."""
    port = {"name": "http", "port": service.port, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector(service), "ports": [port]}
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
            "selector": {"matchLabels": selector(service, pool.name)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _deployment(service: ServicePlan, pool: PoolPlan) -> Object:
    chosen = selector(service, pool.name)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(service, pool.workload, pool.path, pool.name),
        "spec": {
            **({} if pool.scaled else {"replicas": pool.replicas}),
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": pool.progress_deadline_seconds,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": pool.rollout.max_surge, "maxUnavailable": pool.rollout.max_unavailable},
            },
            "selector": {"matchLabels": chosen},
            "template": {
                "metadata": {
                    "labels": labels(service, pool.name),
                    "annotations": {CONFIG_ANNOTATION: service.config_hash},
                },
                "spec": _pod(service, pool, chosen),
            },
        },
    }


def _pod(service: ServicePlan, pool: PoolPlan, chosen: dict[str, str]) -> Object:
    spec: Object = {
        "serviceAccountName": pool.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service called vllm would set VLLM_PORT
        "terminationGracePeriodSeconds": pool.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if pool.priority_class:
        spec["priorityClassName"] = pool.priority_class
    if pool.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in pool.pull_secrets]
    if pool.node_selector:
        spec["nodeSelector"] = dict(sorted(pool.node_selector.items()))
    if pool.tolerations:
        spec["tolerations"] = [dict(one) for one in pool.tolerations]
    if pool.replicas >= 2:
        spec["topologySpreadConstraints"] = [
            _spread(key, chosen) for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ]
    if pool.prefetch is not None:
        spec["initContainers"] = [_prefetch(service, pool, pool.prefetch)]
    spec["containers"] = [_engine(service, pool)]
    spec["volumes"] = [_volume(volume) for volume in pool.volumes]
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


def _engine(service: ServicePlan, pool: PoolPlan) -> Object:
    gpus = {pool.gpu_resource: str(pool.gpus)} if pool.gpus else {}
    memory, disk = binary(pool.memory), binary(pool.ephemeral_storage)
    return {
        "name": "engine",
        "image": service.image,
        "command": list(service.command),
        "args": [argument.text for argument in pool.arguments],
        "env": [_variable(variable) for variable in pool.variables],
        "ports": [{"name": "http", "containerPort": service.port, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": cores(pool.cpu), "memory": memory, "ephemeral-storage": disk, **gpus},
            "limits": {"memory": memory, "ephemeral-storage": disk, **gpus},  # no CPU limit: throttling delays tokens
        },
        "startupProbe": _probe(period=_PROBE_PERIOD, failures=-(-pool.startup_seconds // _PROBE_PERIOD)),
        "readinessProbe": _probe(period=5, failures=3),
        "livenessProbe": _probe(period=_PROBE_PERIOD, failures=6),
        "lifecycle": {"preStop": {"exec": {"command": _drain(service, pool)}}},
        "securityContext": _SECURITY,
        "volumeMounts": [_mount(volume) for volume in pool.volumes],
    }


_SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def _drain(service: ServicePlan, pool: PoolPlan) -> list[str]:
    config = next(volume for volume in pool.volumes if volume.kind == "config")
    (script,) = (name for name in service.config if name.startswith("drain"))
    return ["python3", f"{config.mount}/{script}", str(pool.propagation_seconds), str(pool.drain_seconds)]


def _probe(period: int, failures: int) -> Object:
    """vLLM's /health is 200 once it can serve and 500 once its engine is dead; a busy engine may take seconds."""
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
        "env": [_variable(variable) for variable in prefetch.variables],
        "resources": {
            "requests": {"cpu": "1", "memory": "2Gi", "ephemeral-storage": binary(pool.ephemeral_storage)},
            "limits": {"memory": "2Gi", "ephemeral-storage": binary(pool.ephemeral_storage)},
        },
        "securityContext": _SECURITY,
        "volumeMounts": [_mount(volume) for volume in pool.volumes if volume.name in wanted],
    }


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


def _deployment_sources(service: ServicePlan, pool: PoolPlan) -> dict[Path, Source]:
    """Which line of the spec made which field; the longest prefix wins."""

    def at(*path: str | int) -> Source:
        return Source(service.name, path)

    def of_pool(*path: str | int) -> Source:
        return Source(service.name, (*pool.path, *path))

    sources: dict[Path, Source] = {
        (): Source(service.name, pool.path),
        ("metadata", "name"): of_pool("name"),
        ("metadata", "labels"): at("metadata", "labels"),
        ("spec", "replicas"): of_pool("replicas"),
        ("spec", "strategy"): at("spec", "rollout"),
        ("spec", "progressDeadlineSeconds"): at("spec", "model", "uri"),
        ("spec", "template", "metadata", "labels"): at("metadata", "labels"),
        (*_POD, "terminationGracePeriodSeconds"): at("spec", "routing", "timeout"),
        (*_POD, "serviceAccountName"): of_pool("serviceAccount"),
        (*_POD, "nodeSelector"): of_pool("accelerator"),
        (*_POD, "tolerations"): of_pool("accelerator"),
        (*_POD, "priorityClassName"): of_pool("priorityClass"),
        (*_POD, "imagePullSecrets"): of_pool("imagePullSecrets"),
        (*_POD, "topologySpreadConstraints"): of_pool("replicas"),
        (*_POD, "initContainers"): at("spec", "model", "loading", "method"),
        (*_CONTAINER, "image"): Source(service.name, service.image_path),
        (*_CONTAINER, "resources"): of_pool("resources"),
        (*_CONTAINER, "startupProbe"): at("spec", "model", "uri"),
        (*_CONTAINER, "lifecycle"): at("spec", "routing", "timeout"),
    }
    for part in ("requests", "limits"):
        resources: Path = (*_CONTAINER, "resources", part)
        sources[(*resources, "cpu")] = of_pool("resources", "cpu")
        sources[(*resources, "memory")] = of_pool("resources", "memory")
        sources[(*resources, "ephemeral-storage")] = of_pool("resources", "ephemeralStorage")
        sources[(*resources, pool.gpu_resource)] = of_pool("parallelism")
    for index, argument in enumerate(pool.arguments):
        sources[(*_CONTAINER, "args", index)] = Source(service.name, argument.path)
    for index, variable in enumerate(pool.variables):
        sources[(*_CONTAINER, "env", index)] = Source(service.name, variable.path)
    for index, volume in enumerate(pool.volumes):
        for place in ((*_POD, "volumes"), (*_CONTAINER, "volumeMounts")):
            sources[(*place, index)] = Source(service.name, volume.path)
    return sources
