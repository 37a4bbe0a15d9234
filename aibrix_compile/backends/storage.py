"""Plan -> the claim that keeps weights, and the Job that fills it before any replica starts.

Both stand in wave -1: a claim may wait for its first consumer, which is the Job. The Job's name holds a hash of its pod, so
that another revision is another Job and no immutable field is ever changed; it has no TTL, so Argo CD does not run it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from aibrix_compile.artifact import Artifact, External, Object, Source
from aibrix_compile.backends.objects import artifact, binary, labels, metadata
from aibrix_compile.backends.pods import SECURITY, environment, pod_security
from aibrix_compile.diagnostics import Path
from aibrix_compile.emit import json_text
from aibrix_compile.plan import Prefetch, ServicePlan, Storage

_CACHE: Path = ("spec", "model", "loading", "cache")
_WAVE = {"argocd.argoproj.io/sync-wave": "-1"}
_KEEP = {"argocd.argoproj.io/sync-options": "Prune=confirm,Delete=confirm"}  # weights take hours to fetch again


def emit(service: ServicePlan) -> list[Artifact]:
    kept = service.storage
    if kept is None:
        return []
    found = []
    if kept.size:
        found.append(_claim(service, kept))
    if kept.prefetch is not None:
        found.append(_job(service, kept, kept.prefetch))
    folder = f"{service.environment}/{service.name}"
    return [artifact(folder, value, {(): Source(service.name, _CACHE)}) for value in found]


def externals(service: ServicePlan) -> Iterable[External]:
    kept = service.storage
    if kept is not None and not kept.size:
        yield External("PersistentVolumeClaim", service.namespace, kept.claim, Source(service.name, (*_CACHE, "claim")))


def _claim(service: ServicePlan, kept: Storage) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(service, kept.claim, (*_CACHE, "create"), annotations=_WAVE | _KEEP),
        "spec": {
            "accessModes": [kept.access],
            **({"storageClassName": kept.storage_class} if kept.storage_class else {}),
            "resources": {"requests": {"storage": binary(kept.size)}},
        },
    }


def _job(service: ServicePlan, kept: Storage, prefetch: Prefetch) -> Object:
    pod = _pod(service, kept, prefetch)
    content = hashlib.sha256(json_text(pod).encode()).hexdigest()[:8]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(service, f"{service.name}-prefetch-{content}", _CACHE, annotations=_WAVE),
        "spec": {
            "backoffLimit": 6,
            "activeDeadlineSeconds": kept.deadline_seconds,  # a sync that waits for ever never sees the commit that mends it
            "template": {
                "metadata": {"labels": labels(service) | {"app.kubernetes.io/component": "prefetch"}},
                "spec": pod,
            },
        },
    }


def _pod(service: ServicePlan, kept: Storage, prefetch: Prefetch) -> Object:
    fetch = {
        "name": "prefetch",
        "image": service.image,
        "command": list(prefetch.command),
        "env": environment(prefetch.variables),
        "resources": {
            "requests": {"cpu": "1", "memory": "2Gi", "ephemeral-storage": "8Gi"},
            "limits": {"memory": "2Gi", "ephemeral-storage": "8Gi"},
        },
        "securityContext": SECURITY,
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/scratch"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "model", "mountPath": kept.mount},
        ],
    }
    secrets = sorted({name for pool in service.pools for name in pool.pull_secrets})
    return {
        "restartPolicy": "OnFailure",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        **({"imagePullSecrets": [{"name": name} for name in secrets]} if secrets else {}),
        "containers": [fetch],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": "4Gi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
            {"name": "model", "persistentVolumeClaim": {"claimName": kept.claim}},
        ],
    }
