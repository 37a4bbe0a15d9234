"""The rendered set refers to itself: every name, selector, label, port, volume and key resolves to another object of the
set, or to one that is declared to be somebody else's.

This is the compiler's proof against itself - a backend's bug or an escape hatch is found here, not by a pod that never
starts. It reads objects only. `tables` say which field refers to what, `rules` what that means, `index` finds it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aibrix_compile.artifact import Artifact, External, Object
from aibrix_compile.closure import rules
from aibrix_compile.closure.index import TEMPLATES, Index, at, index_of, mapping, maps
from aibrix_compile.closure.rules import Dangling, Site, title, walk
from aibrix_compile.closure.tables import CLAIMS, OBJECTS, POD
from aibrix_compile.diagnostics import Path

__all__ = ["TEMPLATES", "Dangling", "unresolved"]

_SELECTS = rules.own_pods("selects")


def unresolved(artifacts: Sequence[Artifact], externals: Collection[External]) -> list[Dangling]:
    """Everything in the set of one environment that leads nowhere: duplicates first, then in the order of the artifacts.

    Every object has a kind and metadata with a name (and a namespace, text too); no other shape is relied on.
    """
    index = index_of(externals)
    found = _duplicates(artifacts, index)
    for artifact in artifacts:
        _check(artifact, index, found)
    return found


def _duplicates(artifacts: Sequence[Artifact], index: Index) -> list[Dangling]:
    found: list[Dangling] = []
    paths: dict[str, Artifact] = {}
    for artifact in artifacts:
        if before := index.add(artifact):
            message = f"{title(artifact)} is there twice, in {before.path} and {artifact.path}"
            found.append(Dangling(artifact, ("metadata", "name"), message, "rename one service or pool"))
        elif (before := paths.setdefault(artifact.path, artifact)) is not artifact:
            message = f"{title(before)} and {title(artifact)} would both be written to {artifact.path}"
            found.append(Dangling(artifact, ("metadata", "name"), message, "rename one service or pool"))
    return found


def _check(artifact: Artifact, index: Index, found: list[Dangling]) -> None:
    value = artifact.object
    kind, metadata = value["kind"], value["metadata"]
    site = Site(artifact, index, metadata.get("namespace", ""), found)
    rules.name(site, kind, metadata["name"])
    rules.metadata(site, ("metadata",), metadata)
    if (own := OBJECTS.get(kind)) is not None:
        walk(own, site, (), value)
    for path in TEMPLATES.get(kind, ()):
        if isinstance(template := at(value, path), dict):
            _template(site, path, template)


def _template(of: Site, path: Path, template: Object) -> None:
    value, pod = of.artifact.object, mapping(template.get("spec"))
    about, here = mapping(template.get("metadata")), (*path, "spec")
    claims = maps(at(value, CLAIMS.get(value["kind"], ("",))))
    names = [one.get("name") for one in maps(pod.get("volumes"))] + [at(one, ("metadata", "name")) for one in claims]
    volumes = frozenset(name for name in names if isinstance(name, str))
    site = Site(of.artifact, of.index, of.namespace, of.found, here, pod, mapping(about.get("labels")), volumes)
    if path:
        rules.metadata(site, (*path, "metadata"), about)
        if selector := mapping(at(value, ("spec", "selector"))):
            _SELECTS(site, ("spec", "selector"), {}, selector)
    walk(POD, site, here, pod)
