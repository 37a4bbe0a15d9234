"""The rendered set refers to itself: every name, selector, label, port, volume and key resolves to another object of the
set, or to one that is declared to be somebody else's.

This is the compiler's proof against itself - a backend's bug or an escape hatch is found here, not by a pod that never
starts. It reads objects only. References are rows of tables; an object costs a few lookups.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aibrix_compile.artifact import Artifact, External, Object
from aibrix_compile.diagnostics import Path

TEMPLATES: Mapping[str, tuple[Path, ...]] = {
    "Deployment": (("spec", "template"),),
    "StatefulSet": (("spec", "template"),),
    "Job": (("spec", "template"),),
    "LeaderWorkerSet": (
        ("spec", "leaderWorkerTemplate", "leaderTemplate"),
        ("spec", "leaderWorkerTemplate", "workerTemplate"),
    ),
}
_SELECTORS: Mapping[str, tuple[Path, Path]] = {  # kind -> its selector of pods, and the matchLabels in it
    "Service": (("spec", "selector"), ()),
    "PodDisruptionBudget": (("spec", "selector"), ("matchLabels",)),
    "AdapterSet": (("spec", "selector"), ("matchLabels",)),
    "NetworkPolicy": (("spec", "podSelector"), ("matchLabels",)),
    "PodMonitor": (("spec", "selector"), ("matchLabels",)),
}
_ASKING: tuple[Path, ...] = (
    ("startupProbe",),
    ("readinessProbe",),
    ("livenessProbe",),
    ("lifecycle", "preStop"),
    ("lifecycle", "postStart"),
)
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")
_DNS = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")
_CONFIG_MAP_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Dangling:
    """A field of an artifact that leads nowhere."""

    artifact: Artifact
    path: Path
    message: str
    hint: str = ""


class _Pods(NamedTuple):
    """A pod template: whose it is and where."""

    artifact: Artifact
    path: Path
    template: Object
    labels: Mapping[str, str]


@dataclass(slots=True)
class _Set:
    """The artifacts by what refers to them."""

    objects: dict[tuple[str, str, str], Artifact] = field(default_factory=dict)
    pods: dict[str, list[_Pods]] = field(default_factory=lambda: defaultdict(list))
    by_label: dict[tuple[str, str, str], list[_Pods]] = field(default_factory=lambda: defaultdict(list))
    externals: set[tuple[str, str, str]] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    def has(self, kind: str, namespace: str, name: str) -> bool:
        return (kind, namespace, name) in self.objects or (kind, namespace, name) in self.externals

    def matching(self, namespace: str, labels: Mapping[str, str]) -> list[_Pods]:
        """Templates with all of `labels`, found through the rarest of them."""
        candidates = min(
            (self.by_label.get((namespace, *pair), []) for pair in labels.items()),
            key=len,
            default=self.pods[namespace],
        )
        return [pods for pods in candidates if labels.items() <= pods.labels.items()]


def unresolved(artifacts: Sequence[Artifact], externals: Collection[External]) -> list[Dangling]:
    """Everything in the set of one environment that leads nowhere, in the order of the artifacts."""
    index = _Set(externals={(one.kind, one.namespace, one.name) for one in externals})
    found = list(_collect(artifacts, index))
    for artifact in artifacts:
        found += _check(artifact, index)
    return found


def _collect(artifacts: Sequence[Artifact], index: _Set) -> Iterator[Dangling]:
    paths: set[str] = set()
    for artifact in artifacts:
        value = artifact.object
        key = (value["kind"], value["metadata"].get("namespace", ""), value["metadata"]["name"])
        if key in index.objects:
            yield Dangling(
                artifact, ("metadata", "name"), f"two objects are {_title(value)}", "rename one service or pool"
            )
        if artifact.path in paths:
            yield Dangling(
                artifact,
                ("metadata", "name"),
                f"two objects would be written to {artifact.path}",
                "rename one service or pool",
            )
        index.objects.setdefault(key, artifact)
        paths.add(artifact.path)
        index.folders.add(artifact.path.rpartition("/")[0])
        for path in TEMPLATES.get(value["kind"], ()):
            template = _at(value, path)
            if isinstance(template, dict):
                pods = _Pods(artifact, path, template, template.get("metadata", {}).get("labels", {}))
                index.pods[key[1]].append(pods)
                for pair in pods.labels.items():
                    index.by_label[(key[1], *pair)].append(pods)


def _check(artifact: Artifact, index: _Set) -> Iterator[Dangling]:
    value, namespace = artifact.object, artifact.object["metadata"].get("namespace", "")
    yield from _metadata(artifact, value["metadata"])
    kind = value["kind"]
    for path in TEMPLATES.get(kind, ()):
        if isinstance(template := _at(value, path), dict):
            yield from _template(artifact, path, template, namespace, index)
    if kind in _SELECTORS:
        yield from _selector(artifact, kind, namespace, index)
    if kind == "ConfigMap" and sum(len(text.encode()) for text in value.get("data", {}).values()) > _CONFIG_MAP_LIMIT:
        yield Dangling(
            artifact, ("data",), f"{_title(value)} is larger than 1 MiB, which Kubernetes refuses", "split it"
        )
    for path, wanted, group in _targets(value):
        if not index.has(wanted[0], namespace if group else "", wanted[1]):
            yield Dangling(artifact, path, f"{_title(value)} refers to {wanted[0]} {wanted[1]}, which does not exist")
    if kind == "Application":
        yield from _application(artifact, index)


def _metadata(artifact: Artifact, metadata: Object) -> Iterator[Dangling]:
    name = metadata["name"]
    longest = 63 if artifact.object["kind"] == "Service" else 253
    if not _DNS.match(name) or len(name) > longest:
        yield Dangling(
            artifact,
            ("metadata", "name"),
            f'"{name}" is no name that Kubernetes takes for a {artifact.object["kind"]}',
            "shorten or rename it",
        )
    for key, text in metadata.get("labels", {}).items():
        if not _LABEL.match(text):
            yield Dangling(
                artifact,
                ("metadata", "labels", key),
                f'{_title(artifact.object)}: "{text}" is no value of a label',
                "use at most 63 letters, digits, - _ .",
            )


def _selector(artifact: Artifact, kind: str, namespace: str, index: _Set) -> Iterator[Dangling]:
    path, inner = _SELECTORS[kind]
    labels = _at(artifact.object, (*path, *inner))
    if not isinstance(labels, dict):
        return
    matched = index.matching(namespace, labels)
    title = _title(artifact.object)
    if not matched:
        yield Dangling(artifact, path, f"{title} selects {_pairs(labels)}, which no pod in {namespace} has")
    for number, port in enumerate(_at(artifact.object, ("spec", "ports")) or () if kind == "Service" else ()):
        target = port.get("targetPort", port.get("port"))
        for pods in matched:
            if not any(target in (known.get("name"), known.get("containerPort")) for known in _ports(pods.template)):
                message = (
                    f"{title} sends to port {target}, which the pods of {_title(pods.artifact.object)} do not have"
                )
                yield Dangling(artifact, ("spec", "ports", number, "targetPort"), message)
    for number, endpoint in enumerate(_at(artifact.object, ("spec", "podMetricsEndpoints")) or ()):
        for pods in matched:
            if endpoint.get("port") not in [known.get("name") for known in _ports(pods.template)]:
                message = f"{title} scrapes port {endpoint.get('port')}, which the pods of {_title(pods.artifact.object)} do not have"
                yield Dangling(artifact, ("spec", "podMetricsEndpoints", number), message)


def _template(artifact: Artifact, path: Path, template: Object, namespace: str, index: _Set) -> Iterator[Dangling]:
    title, pod = _title(artifact.object), template.get("spec", {})
    at: Path = (*path, "spec")
    labels = template.get("metadata", {}).get("labels", {})
    wanted = _at(artifact.object, ("spec", "selector", "matchLabels"))
    if isinstance(wanted, dict) and not wanted.items() <= labels.items():
        yield Dangling(
            artifact, ("spec", "selector"), f"{title} selects {_pairs(wanted)}, which its own pods do not have"
        )
    for number, spread in enumerate(pod.get("topologySpreadConstraints", ())):
        if not (_at(spread, ("labelSelector", "matchLabels")) or {}).items() <= labels.items():
            yield Dangling(
                artifact, (*at, "topologySpreadConstraints", number), f"{title} spreads pods that are not its own"
            )
    for where, kind, name, scope in _pod_references(pod, namespace):
        if not index.has(kind, scope, name):
            hint = "it must be emitted, or be declared as somebody else's"
            message = f"{title} refers to {kind} {name}, which does not exist"
            yield Dangling(artifact, (*at, *where), message, hint)
        elif (target := index.objects.get((kind, scope, name))) and _wave(target) > _wave(artifact):
            message = f"{title} waits for {kind} {name}, which is synced in a later wave"
            yield Dangling(artifact, (*at, *where), message, "Argo CD would never reach that wave")
    yield from _volumes(artifact, at, pod)
    yield from _keys(artifact, at, pod, namespace, index)
    yield from _container_ports(artifact, at, pod)


def _pod_references(pod: Object, namespace: str) -> Iterator[tuple[Path, str, str, str]]:
    """Path in the pod, kind, name and namespace of each object that the pod needs."""
    if (account := pod.get("serviceAccountName", "default")) != "default":
        yield ("serviceAccountName",), "ServiceAccount", account, namespace
    if "priorityClassName" in pod:
        yield ("priorityClassName",), "PriorityClass", pod["priorityClassName"], ""
    for number, secret in enumerate(pod.get("imagePullSecrets", ())):
        yield ("imagePullSecrets", number), "Secret", secret["name"], namespace
    for number, volume in enumerate(pod.get("volumes", ())):
        for one in (volume, *(_at(volume, ("projected", "sources")) or ())):
            for key, kind, name in (
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName"),
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ):
                if isinstance(source := one.get(key), dict):
                    yield ("volumes", number), kind, str(source.get(name, source.get("name"))), namespace
    for where, container in _containers(pod):
        for number, variable in enumerate(container.get("env", ())):
            for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if isinstance(source := (variable.get("valueFrom") or {}).get(key), dict):
                    yield (*where, "env", number), kind, source["name"], namespace
        for number, source in enumerate(container.get("envFrom", ())):
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if key in source:
                    yield (*where, "envFrom", number), kind, source[key]["name"], namespace


def _volumes(artifact: Artifact, at: Path, pod: Object) -> Iterator[Dangling]:
    title = _title(artifact.object)
    defined = [volume["name"] for volume in pod.get("volumes", ())]
    used: set[str] = set()
    for where, container in _containers(pod):
        mounts: set[str] = set()
        for number, mount in enumerate(container.get("volumeMounts", ())):
            used.add(mount["name"])
            here = (*at, *where, "volumeMounts", number)
            if mount["name"] not in defined:
                yield Dangling(
                    artifact, here, f'{title} mounts volume "{mount["name"]}", which the pod does not define'
                )
            if mount["mountPath"] in mounts:
                yield Dangling(artifact, here, f"{title} mounts two volumes at {mount['mountPath']}")
            mounts.add(mount["mountPath"])
    for number, name in enumerate(defined):
        if name not in used:
            yield Dangling(
                artifact, (*at, "volumes", number), f'{title} defines volume "{name}", which no container mounts'
            )
        if name in defined[:number]:
            yield Dangling(artifact, (*at, "volumes", number), f'{title} defines volume "{name}" twice')


def _keys(artifact: Artifact, at: Path, pod: Object, namespace: str, index: _Set) -> Iterator[Dangling]:
    """Entries of ConfigMaps that are emitted: a key that is not there keeps the pod from starting."""
    wanted: list[tuple[Path, str, str]] = []
    for number, volume in enumerate(pod.get("volumes", ())):
        source = volume.get("configMap") or {}
        wanted += [((*at, "volumes", number), source["name"], item["key"]) for item in source.get("items", ())]
    for where, container in _containers(pod):
        for number, variable in enumerate(container.get("env", ())):
            if source := (variable.get("valueFrom") or {}).get("configMapKeyRef"):
                wanted.append(((*at, *where, "env", number), source["name"], source["key"]))
    for path, name, key in wanted:
        found = index.objects.get(("ConfigMap", namespace, name))
        if found is not None and key not in found.object.get("data", {}):
            yield Dangling(
                artifact, path, f'{_title(artifact.object)} reads "{key}" of ConfigMap {name}, which has no such entry'
            )


def _container_ports(artifact: Artifact, at: Path, pod: Object) -> Iterator[Dangling]:
    title = _title(artifact.object)
    names: set[str] = set()
    for where, container in _containers(pod):
        if container["name"] in names:
            yield Dangling(artifact, (*at, *where), f"{title} has two containers named {container['name']}")
        names.add(container["name"])
        known = {port.get("name") for port in container.get("ports", ())} | {
            port["containerPort"] for port in container.get("ports", ())
        }
        for inner in _ASKING:
            probe = _at(container, inner) or {}
            for action in ("httpGet", "tcpSocket"):
                if isinstance(target := probe.get(action), dict) and target["port"] not in known:
                    yield Dangling(
                        artifact,
                        (*at, *where, *inner),
                        f"{title} asks port {target['port']}, which container {container['name']} does not have",
                    )


def _targets(value: Object) -> Iterator[tuple[Path, tuple[str, str], bool]]:
    """References by kind and name: path, (kind, name), whether the target is in the object's namespace."""
    if value["kind"] == "HorizontalPodAutoscaler":
        target = value["spec"]["scaleTargetRef"]
        yield ("spec", "scaleTargetRef"), (target["kind"], target["name"]), True
    if value["kind"] == "ScalingPolicy":
        for number, one in enumerate(value["spec"].get("targets", ())):
            yield ("spec", "targets", number), (one["kind"], one["name"]), True
    if value["kind"] in ("RoleBinding", "ClusterRoleBinding"):
        role = value["roleRef"]
        yield ("roleRef",), (role["kind"], role["name"]), role["kind"] == "Role"


def _application(artifact: Artifact, index: _Set) -> Iterator[Dangling]:
    spec, title = artifact.object["spec"], _title(artifact.object)
    path = spec["source"].get("path", "")
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts:
        yield Dangling(
            artifact, ("spec", "source", "path"), f'{title} reads "{path}", which is no folder inside a repository'
        )
    elif not any(folder.rpartition("/")[2] == parts[-1] for folder in index.folders):
        yield Dangling(artifact, ("spec", "source", "path"), f"{title} reads {path}, into which nothing is written")
    namespace = spec["destination"].get("namespace", "")
    for number, one in enumerate(spec.get("ignoreDifferences", ())):
        if "name" in one and not index.has(one["kind"], namespace, one["name"]):
            yield Dangling(
                artifact,
                ("spec", "ignoreDifferences", number),
                f"{title} ignores differences of {one['kind']} {one['name']}, which does not exist",
            )


def _containers(pod: Object) -> Iterator[tuple[Path, Object]]:
    for group in ("initContainers", "containers"):
        for number, container in enumerate(pod.get(group, ())):
            yield (group, number), container


def _ports(template: Object) -> list[Object]:
    return [port for _, container in _containers(template.get("spec", {})) for port in container.get("ports", ())]


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _wave(artifact: Artifact) -> int:
    return int(artifact.object["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", "0"))


def _title(value: Object) -> str:
    return f"{value['kind']} {value['metadata']['name']}"


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={text}" for key, text in labels.items())
