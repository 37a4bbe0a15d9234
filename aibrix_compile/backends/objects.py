"""What all backends share: file names, labels, provenance and Kubernetes' spelling of quantities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aibrix_compile.artifact import Artifact, Object, Source
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import ServicePlan

SERVICE_LABEL = "serving.aibrix.ai/service"
POOL_LABEL = "serving.aibrix.ai/pool"
ROLE_LABEL = "serving.aibrix.ai/role"
GATEWAY_LABEL = "serving.aibrix.ai/gateway"
CONTROLLER_LABEL = "serving.aibrix.ai/controller"
SERVE, WORKER = "serve", "worker"
PROJECT_FILE = "aibrix.yaml"
PICKER_ACCOUNT = "aibrix-picker"
"""The picker's ServiceAccount: `platform` makes it, with the right to read pods, and the gateway's pods use it."""
SOURCE_ANNOTATION = "serving.aibrix.ai/source"
CONFIG_ANNOTATION = "serving.aibrix.ai/config-hash"

RETRY = {  # of Argo CD: what is mended without a commit is found, and a good commit does not wait behind a bad one
    "limit": -1,
    "refresh": True,
    "backoff": {"duration": "5s", "factor": 2, "maxDuration": "1m"},
}

ORDER = {  # the NN of a file's name: what must exist first stands first
    "ServiceAccount": 10,
    "ConfigMap": 20,
    "PersistentVolumeClaim": 25,
    "Job": 26,
    "Service": 30,
    "NetworkPolicy": 35,
    "Deployment": 40,
    "LeaderWorkerSet": 41,
    "PodDisruptionBudget": 50,
    "HorizontalPodAutoscaler": 55,
    "ScalingPolicy": 56,
    "AdapterSet": 57,
    "PodMonitor": 60,
    "PrometheusRule": 61,
    "Application": 90,
}


def artifact(folder: str, value: Object, sources: Mapping[Path, Source]) -> Artifact:
    kind, name = value["kind"], value["metadata"]["name"]
    return Artifact(f"{folder}/{ORDER[kind]:02d}-{kind.lower()}-{name}.yaml", value, sources)


def metadata(
    service: ServicePlan, name: str, path: Path, pool: str = "", annotations: Mapping[str, str] | None = None
) -> Object:
    """Name, namespace, labels and where the object came from."""
    return {
        "name": name,
        "namespace": service.namespace,
        "labels": labels(service, pool),
        "annotations": {**(annotations or {}), SOURCE_ANNOTATION: f"{service.file}#{dotted(path)}"},
    }


def scraped(port: str, labels: Mapping[str, str]) -> Object:
    """An endpoint of a PodMonitor; `labels` are those that its series get, each from a piece of the pod's own data."""
    return {
        "port": port,
        "path": "/metrics",
        "scheme": "http",
        "interval": "15s",
        "scrapeTimeout": "10s",
        "relabelings": [
            {"action": "replace", "sourceLabels": [f"__meta_kubernetes_pod_{source}"], "targetLabel": label}
            for label, source in labels.items()
        ],
    }


def labels(service: ServicePlan, pool: str = "") -> dict[str, str]:
    """The model owner's labels and ours; no label carries a version, so a compiler upgrade changes none."""
    found = {
        **dict(sorted(service.labels.items())),
        "app.kubernetes.io/name": service.engine,
        "app.kubernetes.io/instance": service.name,
        "app.kubernetes.io/component": "engine",
        "app.kubernetes.io/part-of": service.name,
        "app.kubernetes.io/managed-by": "aibrix-compile",
    }
    return found | selector(service, pool)


def selector(service: ServicePlan, pool: str = "", role: str = "") -> dict[str, str]:
    """`role` leaves out the further pods of a replica over several nodes, which answer nobody."""
    chosen = {SERVICE_LABEL: service.name, POOL_LABEL: pool, ROLE_LABEL: role}
    return {label: value for label, value in chosen.items() if value}


def merged(base: Any, over: Any) -> Any:
    """`over` onto `base` by the overlay rule: maps merge, lists of named items merge by name, everything else replaces."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base.get(key), value) for key, value in over.items()}
    if _named(base) and _named(over):
        items = {item["name"]: item for item in base}
        for item in over:
            name = item["name"]
            if item.get("remove") is True:
                items.pop(name, None)
            else:
                items[name] = merged(items.get(name), item)
        return list(items.values())
    return over


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "name" in one for one in value)


def binary(count: int) -> str:
    """Bytes as Kubernetes' canonical quantity."""
    for unit, size in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def cores(millicores: int) -> str:
    return f"{millicores}m" if millicores % 1000 else str(millicores // 1000)


def dotted(path: Path) -> str:
    """A spec path as people write it."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else step)
    return text
