"""The set by what refers to it: objects by name, pods and Services by label. Built once, so that a check is a few lookups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aibrix_compile.artifact import Artifact, External, Object
from aibrix_compile.diagnostics import Path

TEMPLATES: Mapping[str, tuple[Path, ...]] = {
    "Deployment": (("spec", "template"),),
    "StatefulSet": (("spec", "template"),),
    "DaemonSet": (("spec", "template"),),
    "Job": (("spec", "template"),),
    "CronJob": (("spec", "jobTemplate", "spec", "template"),),
    "LeaderWorkerSet": (
        ("spec", "leaderWorkerTemplate", "leaderTemplate"),
        ("spec", "leaderWorkerTemplate", "workerTemplate"),
    ),
    "Pod": ((),),
}
"""Kind -> where its pod templates stand."""

Selector = Mapping[str, Any]
"""A Kubernetes label selector: matchLabels and matchExpressions."""


class Labelled(NamedTuple):
    """What a selector can choose: a pod template or a Service. `ports` are those by which it is reached, names and numbers."""

    artifact: Artifact
    labels: Mapping[str, Any]
    ports: frozenset[str | int]


@dataclass(slots=True)
class Labels:
    """Labelled things of one sort."""

    all: dict[str, list[Labelled]] = field(default_factory=dict)
    by_pair: dict[tuple[str, str, str], list[Labelled]] = field(default_factory=dict)

    def add(self, namespace: str, one: Labelled) -> None:
        self.all.setdefault(namespace, []).append(one)
        for key, text in one.labels.items():
            if isinstance(text, str):
                self.by_pair.setdefault((namespace, key, text), []).append(one)

    def matching(self, namespace: str, selector: Selector) -> list[Labelled]:
        """All in `namespace` that the selector chooses, found through the rarest of its labels."""
        candidates = self.all.get(namespace, [])
        for key, text in mapping(selector.get("matchLabels")).items():
            having = self.by_pair.get((namespace, key, str(text)), [])
            candidates = min(candidates, having, key=len)
        return [one for one in candidates if matches(selector, one.labels)]


@dataclass(slots=True)
class Index:
    """The whole set. A key is (group, kind, namespace, name); Externals are known by kind, not by group."""

    objects: dict[tuple[str, str, str, str], Artifact] = field(default_factory=dict)
    named: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    kinds: set[tuple[str, str, str]] = field(default_factory=set)
    externals: set[tuple[str, str, str]] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    pods: Labels = field(default_factory=Labels)
    services: Labels = field(default_factory=Labels)
    valid: set[tuple[str, str]] = field(default_factory=set)
    """Labels that have been found to be valid: most are those of every other object."""

    def add(self, artifact: Artifact) -> Artifact | None:
        """The object of the same identity that was there before, if any."""
        value = artifact.object
        metadata, kind = value["metadata"], value["kind"]
        group, name = group_of(value), metadata["name"]
        namespace = metadata.get("namespace", "")
        self.folders.add(artifact.path.rpartition("/")[0])
        if before := self.objects.get((group, kind, namespace, name)):
            return before
        self.objects[group, kind, namespace, name] = artifact
        self.kinds.add((group, kind, namespace))
        self.named.setdefault((kind, name), []).append((group, namespace))
        for path in TEMPLATES.get(kind, ()):
            if isinstance(template := at(value, path), dict):
                labels = mapping(mapping(template.get("metadata")).get("labels"))
                self.pods.add(namespace, Labelled(artifact, labels, _reached(mapping(template.get("spec")))))
        if kind == "Service":
            ports = frozenset(str(port.get("name")) for port in maps(at(value, ("spec", "ports"))))
            self.services.add(namespace, Labelled(artifact, mapping(metadata.get("labels")), ports))
        return None


def index_of(externals: Collection[External]) -> Index:
    return Index(externals={(one.kind, one.namespace, one.name) for one in externals})


def matches(selector: Selector, labels: Mapping[str, Any]) -> bool:
    """Whether the selector chooses something with `labels`; an empty one chooses everything."""
    if not mapping(selector.get("matchLabels")).items() <= labels.items():
        return False
    return all(_holds(one, labels) for one in maps(selector.get("matchExpressions")))


def _holds(expression: Object, labels: Mapping[str, Any]) -> bool:
    key, values = str(expression.get("key")), items(expression.get("values"))
    match expression.get("operator"):
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False


def _reached(pod: Object) -> frozenset[str | int]:
    """Ports of the containers that run while the pod serves: init containers only where they are sidecars."""
    sidecars = (one for one in maps(pod.get("initContainers")) if one.get("restartPolicy") == "Always")
    return frozenset(
        known
        for container in (*maps(pod.get("containers")), *sidecars)
        for port in maps(container.get("ports"))
        for known in (port.get("name"), port.get("containerPort"))
        if isinstance(known, str | int)
    )


# --- reading objects whose shape nobody has promised: a template of the user's is merged into them


def at(value: Any, path: Path) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def mapping(value: Any) -> Object:
    return value if isinstance(value, dict) else {}


def items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def maps(value: Any) -> Sequence[Object]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else ()


def each(value: Any, steps: tuple[str, ...], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything at `steps` below `value`, with its path; a list on the way stands for all of its items."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from each(one, steps, (*path, number))
    elif not steps:
        yield path, value
    elif isinstance(value, dict) and (inner := value.get(steps[0])) is not None:
        yield from each(inner, steps[1:], (*path, steps[0]))


def group_of(value: Object) -> str:
    """The API group of an object, or of a reference that names it by apiVersion; "" is the core."""
    return str(value.get("apiVersion", "")).rpartition("/")[0]
