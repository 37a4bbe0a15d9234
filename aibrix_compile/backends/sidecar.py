"""The runtime beside an engine, as a native sidecar: it starts before the engine and outlives it on the way down.

It has what the engine must not have: the pod's token - by which it reads the cluster's public keys, nothing else - and the Secrets
of adapters. Those are optional: a Secret that is missing fails its adapters, never the replica.
"""

from __future__ import annotations

from aibrix_compile.artifact import Object
from aibrix_compile.backends.objects import binary
from aibrix_compile.plan import RuntimePlan

PORT = "runtime"
RUN, ADAPTERS = "/run/aibrix", "/adapters"
SECRETS, IDENTITY, CONFIG = "/etc/aibrix-secrets", "/var/run/secrets/aibrix", "/etc/aibrix"
TOKEN_SECONDS = 3600
CLUSTER_CA = "kube-root-ca.crt"
"""A ConfigMap that Kubernetes puts into each namespace."""
AUDIENCE = "aibrix-runtime"
_LOGS = 2**30  # bytes of disk besides adapters


def sidecar(runtime: RuntimePlan, security: Object) -> Object:
    disk = binary(runtime.adapters_bytes + _LOGS)
    mounts: list[Object] = [
        {"name": "config", "mountPath": CONFIG, "readOnly": True},
        {"name": "runtime", "mountPath": RUN},
        {"name": "runtime-identity", "mountPath": IDENTITY, "readOnly": True},
    ]
    if runtime.adapters_bytes:
        mounts.append({"name": "adapters", "mountPath": ADAPTERS})
    mounts += [{"name": f"secret-{one}", "mountPath": f"{SECRETS}/{one}", "readOnly": True} for one in runtime.secrets]
    mounts += [{"name": f"claim-{one}", "mountPath": f"/mnt/claims/{one}", "readOnly": True} for one in runtime.claims]
    alive = {"httpGet": {"path": "/healthz", "port": PORT}}
    return {
        "name": "runtime",
        "image": runtime.image,
        "restartPolicy": "Always",
        "command": ["python3", "-m", "aibrix_runtime", "run"],
        "args": ["--config", f"{CONFIG}/runtime.json"],
        "env": [{"name": "HOME", "value": RUN}, {"name": "TMPDIR", "value": RUN}],
        "ports": [{"name": PORT, "containerPort": runtime.port, "protocol": "TCP"}],
        "startupProbe": {**alive, "periodSeconds": 1, "failureThreshold": 60},
        # the engine's own probe decides while it starts; this one takes the replica away as soon as it drains
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "resources": {
            # 60 MB idle, 32 MiB for each of four downloads; a download from the Hugging Face hub is a process of its own
            "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": disk},
            "limits": {"memory": "1Gi", "ephemeral-storage": disk},
        },
        "securityContext": security,
        "volumeMounts": mounts,
    }


def engine_mounts(runtime: RuntimePlan) -> list[Object]:
    """What the engine sees of it: the plugin and the socket, and adapters that it can only read."""
    found: list[Object] = [{"name": "runtime", "mountPath": RUN}]
    return [*found, {"name": "adapters", "mountPath": ADAPTERS, "readOnly": True}] if runtime.adapters_bytes else found


def sidecar_volumes(runtime: RuntimePlan) -> list[Object]:
    identity = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": CLUSTER_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    found: list[Object] = [
        {"name": "runtime", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "runtime-identity", "projected": {"sources": identity, "defaultMode": 0o440}},
    ]
    if runtime.adapters_bytes:
        found.append({"name": "adapters", "emptyDir": {"sizeLimit": binary(runtime.adapters_bytes)}})
    for name in runtime.secrets:
        secret = {"secretName": name, "optional": True, "defaultMode": 0o440}
        found.append({"name": f"secret-{name}", "secret": secret})
    for name in runtime.claims:
        found.append({"name": f"claim-{name}", "persistentVolumeClaim": {"claimName": name, "readOnly": True}})
    return found


def caller_token() -> Object:
    """The volume by which a controller shows who it is: for this audience alone."""
    token = {"path": "token", "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS}
    return {"name": "runtime-token", "projected": {"sources": [{"serviceAccountToken": token}], "defaultMode": 0o440}}


def caller_mount() -> Object:
    return {"name": "runtime-token", "mountPath": IDENTITY, "readOnly": True}
