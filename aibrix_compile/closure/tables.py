"""Which field refers to what: the tables, kind by kind. A new kind of object or reference is a row here.

What stands in no table is not checked: start commands, metric queries, storage classes, what happens only at run time.
"""

from __future__ import annotations

from typing import Any

from aibrix_compile.artifact import Object
from aibrix_compile.closure.index import mapping, maps
from aibrix_compile.closure.rules import (
    Ports,
    Rule,
    Site,
    Tree,
    content,
    label_name,
    mounts,
    once,
    own_pods,
    own_port,
    port_name,
    refers,
    refers_by_kind,
    selects,
    tree,
    unique,
    used,
)
from aibrix_compile.diagnostics import Path

_SPREADS, _AVOIDS = own_pods("spreads"), own_pods("keeps away from")

_CONTAINER: tuple[tuple[str, Rule], ...] = (
    ("name", label_name),
    ("name", once("containers")),
    ("env", unique("name")),
    ("env[].valueFrom.secretKeyRef.name", refers("Secret", "key", waits=True)),
    ("env[].valueFrom.configMapKeyRef.name", refers("ConfigMap", "key", waits=True)),
    ("envFrom[].secretRef.name", refers("Secret", waits=True)),
    ("envFrom[].configMapRef.name", refers("ConfigMap", waits=True)),
    ("volumeMounts", unique("mountPath")),
    ("volumeMounts[].name", mounts),
    ("volumeDevices[].name", mounts),
    ("ports", unique("containerPort", "protocol", default="TCP")),
    ("ports[].name", port_name),
    ("ports[].name", once("ports")),
    *(
        (f"{probe}.{action}.port", own_port)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle.preStop", "lifecycle.postStart")
        for action in ("httpGet", "tcpSocket")
    ),
)
_CONTAINERS = ("initContainers", "containers")

POD: Tree = tree(
    ("serviceAccountName", refers("ServiceAccount", waits=True)),
    ("priorityClassName", refers("PriorityClass")),
    ("imagePullSecrets[].name", refers("Secret", waits=True)),
    ("topologySpreadConstraints[].labelSelector", _SPREADS),
    ("affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector", _AVOIDS),
    (
        "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.labelSelector",
        _AVOIDS,
    ),
    *((f"{group}[].{where}", rule) for group in _CONTAINERS for where, rule in _CONTAINER),
    ("volumes", unique("name")),
    ("volumes[].name", label_name),
    ("volumes[].name", used),
    ("volumes[].configMap.name", refers("ConfigMap", "items[].key", waits=True)),
    ("volumes[].secret.secretName", refers("Secret", "items[].key", waits=True)),
    ("volumes[].persistentVolumeClaim.claimName", refers("PersistentVolumeClaim", waits=True)),
    ("volumes[].projected.sources[].configMap.name", refers("ConfigMap", "items[].key", waits=True)),
    ("volumes[].projected.sources[].secret.name", refers("Secret", "items[].key", waits=True)),
)
"""The spec of a pod; `volumes` come after the containers that mount them."""

CLAIMS: dict[str, Path] = {
    "StatefulSet": ("spec", "volumeClaimTemplates"),
    "LeaderWorkerSet": ("spec", "leaderWorkerTemplate", "volumeClaimTemplates"),
}
"""Kind -> claims that it makes for each of its pods: volumes that no pod template lists."""


def _destination(site: Site, path: Path, holder: Object, value: Any) -> None:
    if not mapping(mapping(value).get("destination")).get("namespace"):
        message = "has no spec.destination.namespace"
        site.say((*path, "destination"), message, "objects without a namespace would land in Argo CD's default")


def _reads(site: Site, path: Path, holder: Object, value: Any) -> None:
    """A source in Git: its folder is one that is written into. Ours may stand deeper in the repository, or be its root."""
    for number, source in enumerate([value] if isinstance(value, dict) else maps(value)):
        here = path if isinstance(value, dict) else (*path, number)
        if "chart" in source or "ref" in source:
            continue
        where = source.get("path")
        if not isinstance(where, str) or not where or where.startswith("/") or ".." in where.split("/"):
            message = f'reads "{where or ""}", which is no folder inside a repository'
            site.say((*here, "path"), message, 'give a relative path without ".."')
        elif "plugin" not in source and not _written(where, site.index.folders):
            message = f"reads {where}, into which nothing is written"
            site.say((*here, "path"), message, "it must end in the folder of the objects that it applies")


def _written(where: str, folders: set[str]) -> bool:
    """By the last folder: where an environment's folder lies in the repository is the Project's word."""
    last = where.rstrip("/").rpartition("/")[2]
    return any(folder.rpartition("/")[2] == last for folder in folders)


def _ignores(site: Site, path: Path, holder: Object, value: Any) -> None:
    """Entries of ignoreDifferences are about something: one that is not has been renamed under it."""
    for number, one in enumerate(maps(value)):
        group, kind, name, namespace = one.get("group", ""), one.get("kind"), one.get("name"), one.get("namespace")
        if name and kind != "*":
            there = [(g, kind, n) for g, n in site.index.named.get((str(kind), str(name)), ())]
        else:
            there = list(site.index.kinds)
        if not any(group in (g, "*") and kind in (k, "*") and namespace in (n, None) for g, k, n in there):
            label = " ".join(str(part) for part in (kind, name) if part)
            of = f" of group {group}" if group else ""
            message = f"ignores differences of {label}{of}, which does not exist"
            site.say((*path, number), message, "group, kind, name and namespace must be those of an object of this set")


_SERVED = Ports("ports[]", ("targetPort", "port"), "sends to", numbers=True)

OBJECTS: dict[str, Tree] = {
    "Service": tree(
        ("spec.selector", selects(ports=_SERVED, plain=True)),
        ("spec.ports", unique("name")),
        ("spec.ports", unique("port", "protocol", default="TCP")),
    ),
    "ServiceAccount": tree(("imagePullSecrets[].name", refers("Secret"))),
    "ConfigMap": tree(("data", content), ("binaryData", content)),
    "StatefulSet": tree(("spec.serviceName", refers("Service"))),
    "PodDisruptionBudget": tree(("spec.selector", selects())),
    "NetworkPolicy": tree(
        ("spec.podSelector", selects(ports=Ports("ingress[].ports[]", ("port",), "admits to", every=False))),
        ("spec.ingress[].from[].podSelector", selects()),
        ("spec.egress[].to[].podSelector", selects()),
    ),
    "PodMonitor": tree(("spec.selector", selects(ports=Ports("podMetricsEndpoints[]", ("port",), "scrapes")))),
    "ServiceMonitor": tree(
        ("spec.selector", selects("services", Ports("endpoints[]", ("port",), "scrapes", every=False))),
    ),
    "HorizontalPodAutoscaler": tree(("spec.scaleTargetRef.name", refers_by_kind)),
    "ScalingPolicy": tree(
        ("spec.scaleTargetRef.name", refers_by_kind),
        ("spec.targets[].name", refers_by_kind),
        ("spec.targets[].ref.name", refers_by_kind),
        ("spec.targets[].scaleTargetRef.name", refers_by_kind),
    ),
    "AdapterSet": tree(
        ("spec.selector", selects()),
        ("spec.items[].credentials.secret", refers("Secret", "key")),
    ),
    "RoleBinding": tree(("roleRef.name", refers_by_kind), ("subjects[].name", refers_by_kind)),
    "ClusterRoleBinding": tree(("roleRef.name", refers_by_kind), ("subjects[].name", refers_by_kind)),
    "Application": tree(
        ("spec", _destination),
        ("spec.source", _reads),
        ("spec.sources", _reads),
        ("spec.ignoreDifferences", _ignores),
    ),
}
"""Kind -> rules of its own, besides those of its pod template, its name and its labels."""
