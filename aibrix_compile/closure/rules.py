"""What can be said of one field: it names an object, selects pods, is unique, is spelled as Kubernetes wants it.

A rule is a function of the field's site, path, holder (the map that it stands in) and value. Tables (`tables.py`) hang rules on
a tree of fields, and one walk over an object meets them all. Rules never raise, whatever a template has put there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aibrix_compile.artifact import Artifact, Object
from aibrix_compile.closure.index import Index, each, group_of, items, mapping, maps, matches
from aibrix_compile.diagnostics import Path


@dataclass(frozen=True, slots=True)
class Dangling:
    """A field of an artifact that leads nowhere, or that Kubernetes refuses; `path` is the field's."""

    artifact: Artifact
    path: Path
    message: str
    hint: str


@dataclass(slots=True)
class Site:
    """The object at hand, and of a pod what its fields refer to among themselves. `pod` is where the pod's spec stands."""

    artifact: Artifact
    index: Index
    namespace: str
    found: list[Dangling]
    pod: Path = ()
    spec: Object = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()
    mounted: set[str] = field(default_factory=set)
    named: set[tuple[str, str]] = field(default_factory=set)

    @property
    def title(self) -> str:
        return title(self.artifact)

    def say(self, path: Path, message: str, hint: str) -> None:
        self.found.append(Dangling(self.artifact, path, f"{self.title} {message}", hint))


Rule = Callable[[Site, Path, Object, Any], None]


Tree = tuple[tuple[str, tuple[Rule, ...], "Tree"], ...]
"""Fields with their rules and the fields in them (in their items, where they are lists), in the order of their first rows."""


def tree(*rows: tuple[str, Rule]) -> Tree:
    """Rows of (dotted path, rule), as one tree; `[]` reminds the reader of a list."""
    here: dict[str, list[Rule]] = {}
    below: dict[str, list[tuple[str, Rule]]] = {}
    for where, rule in rows:
        step, _, rest = where.replace("[]", "").partition(".")
        rules, inner = here.setdefault(step, []), below.setdefault(step, [])
        if rest:
            inner.append((rest, rule))
        else:
            rules.append(rule)
    return tuple((step, tuple(rules), tree(*below[step])) for step, rules in here.items())


def walk(fields: Tree, site: Site, path: Path, value: Object) -> None:
    """Every rule of the tree on what `value`, which stands at `path`, has there."""
    for step, rules, inner in fields:
        if (found := value.get(step)) is None:
            continue
        here = (*path, step)
        for rule in rules:
            rule(site, here, value, found)
        if not inner:
            continue
        if isinstance(found, dict):
            walk(inner, site, here, found)
        elif isinstance(found, list):
            for number, one in enumerate(found):
                if isinstance(one, dict):
                    walk(inner, site, (*here, number), one)


# --- references by name

_CLUSTER = frozenset({"ClusterRole", "PriorityClass"})
_GROUPS = {
    "Deployment": "apps",
    "StatefulSet": "apps",
    "LeaderWorkerSet": "leaderworkerset.x-k8s.io",
    "PriorityClass": "scheduling.k8s.io",
    "Role": "rbac.authorization.k8s.io",
    "ClusterRole": "rbac.authorization.k8s.io",
}
_BUILT_IN = frozenset(
    {("ServiceAccount", "default"), ("PriorityClass", "system-node-critical")}
    | {("PriorityClass", "system-cluster-critical")}
    | {("ClusterRole", name) for name in ("view", "edit", "admin", "cluster-admin")}
)
_CONTENT = ("data", "binaryData", "stringData")
_MISSING = "it must be emitted into the same namespace, or be declared as somebody else's"


def refers(kind: str, entry: str = "", waits: bool = False) -> Rule:
    """The field names an object of `kind` in the same namespace; `entry` is where its holder names keys of that object.

    With `waits` the object is needed before this one can become healthy, so no later sync wave may bring it.
    """
    group, cluster = _GROUPS.get(kind, ""), kind in _CLUSTER
    entries = _steps(entry)

    def rule(site: Site, path: Path, holder: Object, value: Any) -> None:
        namespace = "" if cluster else site.namespace
        target = _resolve(site, path, (group, kind, namespace, value), holder.get("optional") is True)
        if target is None:
            return
        if entries and holder.get("optional") is not True:
            known = {str(key) for part in _CONTENT for key in mapping(target.object.get(part))}
            for below, key in each(holder, entries):
                if str(key) not in known:
                    message = f'reads "{key}" of {kind} {value}, which has no such entry'
                    site.say((*path[:-1], *below), message, f"its entries are {_listed(known)}")
        if waits and wave(target) > wave(site.artifact) and folder(target) == folder(site.artifact):
            site.say(
                path,
                f"waits for {kind} {value}, which is synced in a later wave",
                "Argo CD would never reach that wave: it waits until all objects of this one are healthy",
            )

    return rule


def refers_by_kind(site: Site, path: Path, holder: Object, value: Any) -> None:
    """The field names an object whose kind, and perhaps group and namespace, stand beside it."""
    kind = holder.get("kind")
    if kind in ("User", "Group") or not isinstance(kind, str):
        return
    group = group_of(holder) or str(holder.get("apiGroup") or _GROUPS.get(kind, ""))
    namespace = "" if kind in _CLUSTER else str(holder.get("namespace", site.namespace))
    _resolve(site, path, (group, kind, namespace, value), kind == "ClusterRole" and str(value).startswith("system:"))


def _resolve(site: Site, path: Path, key: tuple[str, str, str, Any], optional: bool) -> Artifact | None:
    """The object of that key, where it is one of the set; else it is said that nobody has it."""
    group, kind, namespace, name = key
    if not isinstance(name, str):
        site.say(path, f"has {name!r} where the name of a {kind} belongs", "write its name")
        return None
    if target := site.index.objects.get((group, kind, namespace, name)):
        return target
    if optional or (kind, name) in _BUILT_IN or (kind, namespace, name) in site.index.externals:
        return None
    elsewhere = site.index.named.get((kind, name), [])
    where = f" in namespace {namespace}" if namespace else ""
    hint = _MISSING
    if elsewhere:
        other, beyond = elsewhere[0]
        hint = f"there is one in namespace {beyond}" if beyond != namespace else f'there is one of group "{other}"'
    site.say(path, f"refers to {kind} {name}, which does not exist{where}", hint)
    return None


# --- references by label and port


class Ports(NamedTuple):
    """Each item at `items`, beside a selector, names in the first of `fields` that it has a port of what is selected."""

    items: str
    fields: tuple[str, ...]
    does: str
    every: bool = True
    """All that is selected must have the port; else one is enough."""
    numbers: bool = False
    """Numbers count too; else they need not be declared."""


def selects(what: str = "pods", ports: Ports | None = None, plain: bool = False) -> Rule:
    """The field selects "pods" or "services" of the same namespace, by a label selector or by `plain` labels."""
    steps = _steps(ports.items) if ports else ()

    def rule(site: Site, path: Path, holder: Object, value: Any) -> None:
        if not value or "namespaceSelector" in holder:
            return  # asks for nothing in particular, or for what other namespaces have
        things = site.index.services if what == "services" else site.index.pods
        selector = {"matchLabels": value} if plain else mapping(value)
        matched = things.matching(site.namespace, selector)
        if not matched:
            message = f"selects {what} with {_selected(selector)}: namespace {site.namespace} has none"
            site.say(path, message, "the selector must agree with the labels of what it is for")
        if ports is None:
            return
        for below, item in each(holder, steps):
            name = next((one for one in ports.fields if one in mapping(item)), "")
            port = mapping(item).get(name)
            if not isinstance(port, str | int if ports.numbers else str):
                continue
            without = [one for one in matched if port not in one.ports]
            if without and (ports.every or len(without) == len(matched)):
                one = title(without[0].artifact)
                owner = f"the pods of {one} do" if what == "pods" else f"{one} does"
                message = f"{ports.does} port {port}, which {owner} not have"
                site.say((*path[:-1], *below, name), message, f"known are {_listed(without[0].ports)}")

    return rule


def own_pods(does: str) -> Rule:
    """The field is a label selector that must choose the pod in whose spec it stands."""

    def rule(site: Site, path: Path, holder: Object, value: Any) -> None:
        if holder.get("namespaces") or holder.get("namespaceSelector"):
            return
        if not matches(mapping(value), site.labels):
            message = f"{does} pods with {_selected(mapping(value))}, which its own pods do not have"
            site.say(path, message, "use labels of the pod template")

    return rule


# --- references within a pod


def mounts(site: Site, path: Path, holder: Object, value: Any) -> None:
    """The field names a volume of the pod."""
    if not isinstance(value, str) or value not in site.volumes:
        message = f'mounts volume "{value}", which the pod does not define'
        site.say(path, message, f"the pod's volumes are {_listed(site.volumes)}")
    else:
        site.mounted.add(value)


def used(site: Site, path: Path, holder: Object, value: Any) -> None:
    """The field names a volume that a container mounts. Comes after all `mounts`."""
    if isinstance(value, str) and value not in site.mounted:
        site.say(path, f'defines volume "{value}", which no container mounts', "remove it, or mount it")


def own_port(site: Site, path: Path, holder: Object, value: Any) -> None:
    """The field names a port of the container in which it stands. Numbers need not be declared."""
    if not isinstance(value, str):
        return
    depth = len(site.pod)
    container: Any = site.spec[str(path[depth])][path[depth + 1]]
    if value not in (known := [port.get("name") for port in maps(container.get("ports"))]):
        message = f"asks port {value} in {path[depth + 2]}, which container {container.get('name')} does not have"
        site.say(path, message, f"it has {_listed(known)}")


# --- spelling and size

_TEXT = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT = re.compile(r"(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[^/%]+")
_NAMES = dict.fromkeys(("Service", "Namespace", "LeaderWorkerSet"), _LABEL) | dict.fromkeys(
    ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"), _SEGMENT
)
_ANNOTATIONS_LIMIT, _CONTENT_LIMIT = 256 * 1024, 1024 * 1024  # bytes, as the API server counts them
_LABEL_HINT = "use at most 63 lower-case letters, digits and -"


def _spelled(pattern: re.Pattern[str], what: str, hint: str) -> Rule:
    def rule(site: Site, path: Path, holder: Object, value: Any) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            site.say(path, f'has the {what} "{value}", which Kubernetes refuses', hint)

    return rule


label_name = _spelled(_LABEL, "name", _LABEL_HINT)
port_name = _spelled(_PORT, "port name", "use at most 15 lower-case letters, digits and single -, a letter among them")


def unique(*fields: str, default: str = "") -> Rule:
    """No two items of the list have the same `fields`; server-side apply refuses them. Items that lack the first are left out."""

    def rule(site: Site, path: Path, holder: Object, value: Any) -> None:
        seen: set[Any] = set()
        for number, one in enumerate(value if isinstance(value, list) else ()):
            if not isinstance(one, dict) or (first := one.get(fields[0])) is None:
                continue
            key = str(first) if len(fields) == 1 else tuple(str(one.get(name, default)) for name in fields)
            if key in seen:
                message = f"has two {path[-1]} with {fields[0]} {first} in {_dotted(path[:-1])}"
                site.say((*path, number, fields[0]), message, "rename or remove one")
            seen.add(key)

    return rule


def once(what: str) -> Rule:
    """No other `what` of the pod has this name."""

    def rule(site: Site, path: Path, holder: Object, value: Any) -> None:
        key = (what, str(value))
        if key in site.named:
            site.say(path, f"has two {what} named {value}", "rename or remove one")
        site.named.add(key)

    return rule


def metadata(site: Site, path: Path, value: Object) -> None:
    """Labels and annotations of an object or a pod template."""
    labels, annotations = mapping(value.get("labels")), value.get("annotations")
    for pair in labels.items():
        if not isinstance(pair[1], str) or pair not in site.index.valid:
            _label(site, (*path, "labels", pair[0]), *pair)
    if isinstance(annotations, dict) and _over(_ANNOTATIONS_LIMIT, (*annotations, *annotations.values())):
        message = "has more than 256 KiB of annotations, which Kubernetes refuses"
        site.say((*path, "annotations"), message, "shorten them")


def name(site: Site, kind: str, value: Any) -> None:
    """The name of an object itself."""
    pattern = _NAMES.get(kind, _SUBDOMAIN)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        limit = 63 if pattern is _LABEL else 253
        hint = f"use at most {limit} lower-case letters, digits and -, and begin and end with a letter or digit"
        site.say(("metadata", "name"), "has a name that Kubernetes refuses", hint)


def _label(site: Site, path: Path, key: Any, text: Any) -> None:
    prefix, slash, last = str(key).rpartition("/")
    if not last or not _TEXT.fullmatch(last) or (slash and not _SUBDOMAIN.fullmatch(prefix)):
        hint = "use prefix/name, the name at most 63 letters, digits, - _ ."
        site.say(path, f'has the label "{key}", which Kubernetes refuses', hint)
    elif not isinstance(text, str) or not _TEXT.fullmatch(text):
        message = f'has the label {key} with "{text}", which is no value of a label'
        site.say(path, message, "use at most 63 letters, digits, - _ . and begin and end with a letter or digit")
    else:
        site.index.valid.add((key, text))


def content(site: Site, path: Path, holder: Object, value: Any) -> None:
    """`data` of a ConfigMap, measured together with `binaryData`."""
    binary = sum(len(str(text)) * 3 // 4 for text in mapping(holder.get("binaryData")).values())
    texts = mapping(value).values() if path == ("data",) else ()
    if _over(_CONTENT_LIMIT - binary, texts) and (path == ("data",) or not holder.get("data")):
        site.say(path, "is larger than 1 MiB, which Kubernetes refuses", "split it, or mount the files from elsewhere")


def _over(limit: int, texts: Iterable[Any]) -> bool:
    """Whether the UTF-8 of all texts is longer than `limit` bytes; only long ones are encoded."""
    texts = [text for text in texts if isinstance(text, str)]
    length = sum(map(len, texts))
    return length > limit or (length * 4 > limit and sum(len(text.encode()) for text in texts) > limit)


# --- words


def title(artifact: Artifact) -> str:
    return f"{artifact.object['kind']} {artifact.object['metadata']['name']}"


def wave(artifact: Artifact) -> int:
    text = mapping(artifact.object["metadata"].get("annotations")).get("argocd.argoproj.io/sync-wave")
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,9}", str(text)) else 0


def folder(artifact: Artifact) -> str:
    return artifact.path.rpartition("/")[0]


def _selected(selector: Mapping[str, Any]) -> str:
    pairs = [f"{key}={text}" for key, text in mapping(selector.get("matchLabels")).items()]
    for one in maps(selector.get("matchExpressions")):
        values = ", ".join(map(str, items(one.get("values"))))
        pairs.append(f"{one.get('key')} {one.get('operator')}" + (f" ({values})" if values else ""))
    return ", ".join(pairs) or "any labels"


def _steps(where: str) -> tuple[str, ...]:
    return tuple(where.replace("[]", "").split(".")) if where else ()


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(one) for one in values if one is not None})) or "none"


def _dotted(path: Path) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")
