"""Git and the cluster, as Argo CD sees them: what was compiled, in what order it is applied, and where the two differ."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from aibrix_compile.ownership import GIT
from tests.cluster.api import Api
from tests.cluster.watch import Object

_WAVE = "argocd.argoproj.io/sync-wave"
_FIRST = ("CustomResourceDefinition", "Namespace", "StorageClass")


def compiled(project: Path, output: Path, *more: str, command: str = "build") -> list[Object]:
    """Everything that `aibrix-compile build` (or `platform`) writes, read back from the files, in their order."""
    words = [sys.executable, "-m", "aibrix_compile", command, ".", "-o", str(output), *more]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [yaml.safe_load(path.read_text("utf-8")) for path in sorted(output.rglob("*.yaml"))]


def wave(value: Object) -> int:
    return int(value["metadata"].get("annotations", {}).get(_WAVE, 0))


def in_order(values: Iterable[Object]) -> list[Object]:
    """By wave, then kinds that others stand on, then the order of the files, which is a good one by itself."""
    return sorted(values, key=lambda one: (wave(one), one["kind"] not in _FIRST))


def sync(api: Api, values: Iterable[Object]) -> None:
    """Apply as Argo CD with ServerSideApply=true does: strict, under its manager, never by force."""
    for value in in_order(values):
        api.apply(value, GIT)
        if value["kind"] == "CustomResourceDefinition":
            api.forget()


def drift(api: Api, values: Iterable[Object]) -> list[str]:
    """Where Git and the cluster differ: by value over what Git says, and by what a sync would change (ServerSideDiff)."""
    found: list[str] = []
    for value in values:
        name = f"{value['kind']}/{value['metadata']['name']}"
        for _ in range(20):  # a controller may write between the two: both must be of one revision
            live, there = api.read_back(value), api.apply(value, GIT, dry_run=True, force=True)
            if live["metadata"]["resourceVersion"] == there["metadata"]["resourceVersion"]:
                break
        found += [f"{name}: {one}" for one in different(value, live)]
        if (before := _content(live)) != (after := _content(there)):
            found.append(f"{name}: a sync would change {', '.join(different(after, before)) or 'something'}")
    return found


def _content(value: Object) -> Object:
    meta = {k: v for k, v in value["metadata"].items() if k not in ("managedFields", "resourceVersion", "generation")}
    return {**{k: v for k, v in value.items() if k != "status"}, "metadata": meta}


def different(wanted: Any, live: Any, path: str = "") -> Iterator[str]:
    """Paths whose wanted value the live object has not; what it has besides is somebody else's."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        for name, value in wanted.items():
            if name not in live:
                yield f"{path}.{name} is missing"
            else:
                yield from different(value, live[name], f"{path}.{name}")
    elif isinstance(wanted, list) and isinstance(live, list):
        if len(wanted) != len(live):
            yield f"{path} has {len(live)} entries, not {len(wanted)}"
        for index, (one, other) in enumerate(zip(wanted, live, strict=False)):
            yield from different(one, other, f"{path}[{index}]")
    elif wanted != live:
        yield f"{path} is {live!r}, not {wanted!r}"


def namespaces(values: Iterable[Object]) -> set[str]:
    """Every namespace that objects lie in."""
    return {found for one in values if (found := one["metadata"].get("namespace"))}


def leftovers(api: Api, spaces: Iterable[str]) -> list[str]:
    """Objects in the namespaces that the cluster did not put there itself."""
    found = []
    for version, kind in api.namespaced_kinds():
        if kind == "Event":
            continue
        for space in spaces:
            for one in api.list(kind, space, api=version):
                if not re.fullmatch(r"kube-root-ca\.crt|default|kubernetes", one["metadata"]["name"]):
                    found.append(f"{kind} {space}/{one['metadata']['name']}")
    return sorted(set(found))
