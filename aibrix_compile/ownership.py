"""Who writes which field of which object. Git and a controller never own the same one.

Emission, `ignoreDifferences`, RBAC verbs and field-manager names all derive from this table, so they can not disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aibrix_compile.artifact import Object
from aibrix_compile.diagnostics import Path

GIT = "argocd-controller"  # Argo CD's field manager under server-side apply
SCALER = "aibrix-scaler"
HPA = "kube-controller-manager"


@dataclass(frozen=True, slots=True)
class Owned:
    """`field` of every object of `kind` belongs to `manager` once the object is a scaler's target."""

    group: str
    kind: str
    field: Path
    manager: str
    subresource: str

    @property
    def pointer(self) -> str:
        return "".join(f"/{step}" for step in self.field)


SCALED = (
    Owned("apps", "Deployment", ("spec", "replicas"), SCALER, "scale"),
    Owned("leaderworkerset.x-k8s.io", "LeaderWorkerSet", ("spec", "replicas"), SCALER, "scale"),
)


def owned(kind: str, scaled: bool) -> tuple[Owned, ...]:
    """The fields of an object that Git must not set."""
    return tuple(one for one in SCALED if scaled and one.kind == kind)


def ignore_differences(targets: Iterable[tuple[str, str]]) -> list[Object]:
    """Argo CD's `ignoreDifferences` for scaled objects, given as (kind, name); both forms, because a scale of a number
    that nobody owned is recorded under no manager."""
    return [
        {
            "group": one.group,
            "kind": kind,
            "name": name,
            "jsonPointers": [one.pointer],
            "managedFieldsManagers": sorted({one.manager, HPA}),
        }
        for kind, name in targets
        for one in owned(kind, scaled=True)
    ]


def trespasses(value: Object, scaled: bool) -> list[Path]:
    """The fields that `value` sets although a controller owns them."""
    return [one.field for one in owned(value.get("kind", ""), scaled) if _has(value, one.field)]


def _has(value: Any, field: Path) -> bool:
    for step in field:
        if not isinstance(value, dict) or step not in value:
            return False
        value = value[step]
    return True
