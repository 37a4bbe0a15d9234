"""Plan -> the gateway's pods and what surrounds them: Envoy, the picker, their Services, budgets, network and monitoring.

Their names carry the environment's, so that environments may share a namespace. Neither needs the other to start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path as File
from typing import NamedTuple

from aibrix_compile.artifact import Object
from aibrix_compile.backends.gateway.envoy import IN_POD, MEMORY, folders
from aibrix_compile.backends.gateway.listeners import KEYS_FILE
from aibrix_compile.backends.objects import (
    CONFIG_ANNOTATION,
    GATEWAY_LABEL,
    PICKER_ACCOUNT,
    PROJECT_FILE,
    ROLE_LABEL,
    SOURCE_ANNOTATION,
    binary,
    dotted,
)
from aibrix_compile.backends.pods import SECURITY, pod_security
from aibrix_compile.backends.sidecar import IDENTITY, caller_mount, caller_token
from aibrix_compile.plan import GatewayPlan, ServicePlan

GATEWAY, PICKER = "gateway", "picker"
FORGET = 15
"""Seconds until load balancers and kube-proxies have forgotten a pod that is not ready any more."""
WORKERS = 4
HEARD = 35
"""Seconds until each Envoy knows a new picker: 30 that a name is kept, a look at it, a health check."""
_SCRIPTS, _FUNCTIONS, _CONFIG = "/etc/scripts", "/etc/picker/functions", "/etc/picker/config"


class Port(NamedTuple):
    name: str
    number: int


GRPC, HEALTH, METRICS, PEERS = Port("grpc", 9002), Port("health", 9003), Port("metrics", 9090), Port("peers", 9004)
HTTP, OPS = Port("http", IN_POD.port), Port("ops", IN_POD.ops_port)


def metadata(environment: str, gateway: GatewayPlan, name: str, role: str, **annotations: str) -> Object:
    return {
        "name": name,
        "namespace": gateway.namespace,
        "labels": labels(environment, role),
        "annotations": {**annotations, SOURCE_ANNOTATION: f"{PROJECT_FILE}#{dotted(gateway.path)}"},
    }


def labels(environment: str, role: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "envoy" if role == GATEWAY else "picker",
        "app.kubernetes.io/instance": f"{environment}-{role}",
        "app.kubernetes.io/component": role,
        "app.kubernetes.io/part-of": f"{environment}-gateway",
        "app.kubernetes.io/managed-by": "aibrix-compile",
        **selector(environment, role),
    }


def selector(environment: str, role: str) -> dict[str, str]:
    return {GATEWAY_LABEL: environment, ROLE_LABEL: role}


def config_map(environment: str, gateway: GatewayPlan, name: str, role: str, data: Mapping[str, str]) -> Object:
    about = metadata(environment, gateway, name, role)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": dict(data)}


def scripts(gateway: GatewayPlan) -> dict[str, str]:
    names = ["drain.sh", *(["keys.sh"] if gateway.keys_secret else [])]
    return {name: File(__file__).with_name(name).read_text("utf-8") for name in names}


# --- Envoy


def envoy(environment: str, gateway: GatewayPlan, services: tuple[ServicePlan, ...], fixed: str) -> Object:
    """`fixed` is what Envoy reads once, when it starts: a change of it is a rollout."""
    longest = max((int(service.routing.timeout_seconds) + 1 for service in services), default=300)
    about, chosen = labels(environment, GATEWAY), selector(environment, GATEWAY)
    pod: Object = {
        "serviceAccountName": gateway.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": FORGET + longest + 30,
        "securityContext": pod_security(),
        "topologySpreadConstraints": _spread(chosen),
    }
    if gateway.keys_secret:
        pod["initContainers"] = [_keys(gateway)]
    pod["containers"] = [_envoy(gateway, longest)]
    pod["volumes"] = _envoy_volumes(gateway)
    return _deployment(environment, gateway, gateway.name, GATEWAY, gateway.replicas, about, fixed, pod)


def _envoy(gateway: GatewayPlan, longest: int) -> Object:
    words = ["-c", f"{IN_POD.folder}/bootstrap/bootstrap.yaml", "--reject-unknown-dynamic-fields"]
    words += ["--disable-hot-restart", "--concurrency", str(WORKERS), "--file-flush-interval-msec", "200"]
    words += ["--drain-time-s", str(longest + 30), "--log-level", "warning"]
    mounts = [{"name": name, "mountPath": f"{IN_POD.folder}/{name}", "readOnly": True} for name in folders(gateway)]
    mounts.append({"name": "scripts", "mountPath": _SCRIPTS, "readOnly": True})
    if gateway.keys_secret:
        mounts.append({"name": "keys", "mountPath": IN_POD.keys, "readOnly": True})
    if gateway.tls_secret:
        mounts.append({"name": "tls", "mountPath": IN_POD.tls, "readOnly": True})
    ready = {"httpGet": {"path": "/ready", "port": OPS.name}}
    drain = ["bash", f"{_SCRIPTS}/drain.sh", str(IN_POD.admin_port), str(FORGET), str(longest)]
    return {
        "name": "envoy",
        "image": gateway.image,
        "command": ["envoy"],
        "args": words,
        "ports": _ports(HTTP, OPS),
        "resources": {"requests": {"cpu": "2", "memory": binary(MEMORY)}, "limits": {"memory": binary(MEMORY)}},
        "securityContext": SECURITY,
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**ready, "periodSeconds": 2, "failureThreshold": 2},
        # not /ready, which says no while the pod drains
        "livenessProbe": {"tcpSocket": {"port": OPS.name}, "periodSeconds": 10, "failureThreshold": 3},
        "lifecycle": {"preStop": {"exec": {"command": drain}}},
        "volumeMounts": mounts,
    }


def _keys(gateway: GatewayPlan) -> Object:
    """A native sidecar: it writes the file before Envoy starts, and again when the Secret changes."""
    file = f"{IN_POD.keys}/{KEYS_FILE}"
    tenants = [tenant.name for tenant in gateway.tenants]
    return {
        "name": "keys",
        "image": gateway.image,
        "restartPolicy": "Always",
        "command": ["bash", f"{_SCRIPTS}/keys.sh", "/etc/keys", file, *tenants],
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": SECURITY,
        "startupProbe": {"exec": {"command": ["test", "-f", file]}, "periodSeconds": 1, "failureThreshold": 30},
        "volumeMounts": [
            {"name": "scripts", "mountPath": _SCRIPTS, "readOnly": True},
            {"name": "secret", "mountPath": "/etc/keys", "readOnly": True},
            {"name": "keys", "mountPath": IN_POD.keys},
        ],
    }


def _envoy_volumes(gateway: GatewayPlan) -> list[Object]:
    volumes = [_configured(name, f"{gateway.name}-{name}") for name in (*folders(gateway), "scripts")]
    if gateway.keys_secret:
        volumes.append({"name": "keys", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}})
        volumes.append({"name": "secret", "secret": {"secretName": gateway.keys_secret, "defaultMode": 0o440}})
    if gateway.tls_secret:
        volumes.append({"name": "tls", "secret": {"secretName": gateway.tls_secret, "defaultMode": 0o440}})
    return volumes


def service(environment: str, gateway: GatewayPlan) -> Object:
    tls = bool(gateway.tls_secret)
    port = {"name": "https" if tls else "http", "port": 443 if tls else 80, "targetPort": HTTP.name, "protocol": "TCP"}
    announced = {"external-dns.alpha.kubernetes.io/hostname": gateway.hostname} if gateway.hostname else {}
    about = metadata(environment, gateway, gateway.name, GATEWAY, **{**announced, **gateway.service_annotations})
    spec = {"type": gateway.service_type, "selector": selector(environment, GATEWAY), "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": spec}


# --- the picker


def picker(environment: str, gateway: GatewayPlan, functions: Mapping[str, str], *, runtime: bool) -> Object:
    """`runtime`: some service has sidecars, to which a picker must show who it is."""
    about, chosen = labels(environment, PICKER), selector(environment, PICKER)
    peers = f"{gateway.picker}.{gateway.namespace}.svc.cluster.local:{PEERS.number}"
    mounts = [{"name": "config", "mountPath": _CONFIG, "readOnly": True}]
    volumes = [_configured("config", f"{gateway.picker}-config")]
    if functions:
        mounts.append({"name": "functions", "mountPath": _FUNCTIONS, "readOnly": True})
        volumes.append(_configured("functions", f"{gateway.picker}-functions"))
    if runtime:
        mounts.append(caller_mount())
        volumes.append(caller_token())
    ready, alive = ({"httpGet": {"path": path, "port": METRICS.name}} for path in ("/readyz", "/healthz"))
    container = {
        "name": "picker",
        "image": gateway.picker_image,
        "command": ["python3", "-m", "aibrix_controllers.picker", "run"],
        "args": [
            "--config",
            f"{_CONFIG}/picker.json",
            "--peers",
            peers,
            *(["--runtime-token", f"{IDENTITY}/token"] if runtime else []),
        ],
        "env": [
            *([{"name": "PYTHONPATH", "value": _FUNCTIONS}] if functions else []),
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "ports": _ports(GRPC, HEALTH, METRICS, PEERS),
        # one core is what one process can use; the memory is for 10,000 adapters and prompts of 32 MiB
        "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": SECURITY,
        "startupProbe": {**alive, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**ready, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": HEARD}}},  # until each Envoy knows those that follow
        "volumeMounts": mounts,
    }
    pod = {
        "serviceAccountName": PICKER_ACCOUNT,
        "automountServiceAccountToken": True,  # it reads pods
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": HEARD + 40,  # and 30 for the requests that it has
        "securityContext": pod_security(),
        "topologySpreadConstraints": _spread(chosen),
        "containers": [container],
        "volumes": volumes,
    }
    fixed = "\n".join(f"{name}\n{text}" for name, text in functions.items())
    return _deployment(environment, gateway, gateway.picker, PICKER, gateway.picker_replicas, about, fixed, pod)


def picker_service(environment: str, gateway: GatewayPlan) -> Object:
    """Headless: each Envoy spreads over all pickers, and pickers find each other."""
    ports = [{"name": one.name, "port": one.number, "targetPort": one.name, "protocol": "TCP"} for one in (GRPC, PEERS)]
    about = metadata(environment, gateway, gateway.picker, PICKER)
    spec = {"clusterIP": "None", "selector": selector(environment, PICKER), "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": spec}


# --- both


def account(environment: str, gateway: GatewayPlan) -> Object:
    about = metadata(environment, gateway, gateway.name, GATEWAY)
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": about,
        "automountServiceAccountToken": False,
    }


def disruption_budget(environment: str, gateway: GatewayPlan, name: str, role: str) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(environment, gateway, name, role),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(environment, role)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policies(environment: str, gateway: GatewayPlan) -> list[Object]:
    """Clients reach Envoy; Envoy reaches the picker, and pickers each other; metrics are for whoever scrapes."""
    found = [_admits(environment, gateway, gateway.name, GATEWAY, [{"ports": _numbers(HTTP, OPS)}])]
    if gateway.picker:
        envoys, peers = (_pods(environment, role) for role in (GATEWAY, PICKER))
        rules = [
            {"from": [envoys], "ports": _numbers(GRPC, HEALTH)},
            {"from": [peers], "ports": _numbers(PEERS, METRICS)},
            {"ports": _numbers(METRICS)},
        ]
        found.append(_admits(environment, gateway, gateway.picker, PICKER, rules))
    return found


def _admits(environment: str, gateway: GatewayPlan, name: str, role: str, ingress: list[Object]) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(environment, gateway, name, role),
        "spec": {
            "podSelector": {"matchLabels": selector(environment, role)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _deployment(
    environment: str,
    gateway: GatewayPlan,
    name: str,
    role: str,
    replicas: int,
    about: Mapping[str, str],
    fixed: str,
    pod: Object,
) -> Object:
    digest = hashlib.sha256(fixed.encode()).hexdigest()[:16]
    template = {"metadata": {"labels": dict(about), "annotations": {CONFIG_ANNOTATION: digest}}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(environment, gateway, name, role),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": selector(environment, role)},
            "template": template,
        },
    }


def _spread(chosen: Mapping[str, str]) -> list[Object]:
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(chosen)},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def _pods(environment: str, role: str) -> Object:
    return {"podSelector": {"matchLabels": selector(environment, role)}}


def _ports(*ports: Port) -> list[Object]:
    return [{"name": one.name, "containerPort": one.number, "protocol": "TCP"} for one in ports]


def _numbers(*ports: Port) -> list[Object]:
    return [{"port": one.name, "protocol": "TCP"} for one in ports]


def _configured(name: str, source: str) -> Object:
    return {"name": name, "configMap": {"name": source, "defaultMode": 0o444}}
