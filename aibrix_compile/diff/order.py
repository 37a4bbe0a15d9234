"""What Argo CD does with a change, first to last: Applications, then wave by wave; in a wave it deletes before it creates, and
what it deletes goes in the reverse order of waves. A claim that is to be deleted holds its wave until somebody confirms."""

from __future__ import annotations

from collections.abc import Iterator

from aibrix_compile.artifact import Object
from aibrix_compile.diff.difference import Kind, Line, Objects, ServiceDifference
from aibrix_compile.diff.sides import State

_NAMED = 6
_PREFIX = "argocd.argoproj.io/"


def order(found: ServiceDifference, before: State | None, after: State | None, objects: Objects) -> Iterator[Line]:
    """One line each."""
    old = {path: one.object for path, one in (before.artifacts if before else {}).items()}
    new = {path: one.object for path, one in (after.artifacts if after else {}).items()}
    application = any(value["kind"] == "Application" for value in (new or old).values())
    if application and found.kind is Kind.GONE:
        count = sum(value["kind"] != "Application" for value in old.values())
        yield Line(f"its Application is deleted, whose finalizer deletes the service's {count} objects")
        if any("Delete=confirm" in _option(value) for value in old.values()):
            yield Line("nothing is deleted before somebody confirms the deletion of its claim in Argo CD")
        return
    if application and not old:
        yield Line("its Application is created, and syncs the rest")
    elif application and any(new[path]["kind"] == "Application" for path in (*objects.added, *objects.changed)):
        yield Line("its Application changes first")
    gone = [old[path] for path in objects.removed if old[path]["kind"] != "Application"]
    made = [new[path] for path in objects.added if new[path]["kind"] != "Application"]
    other = [new[path] for path in objects.changed if new[path]["kind"] != "Application"]
    waves = sorted({_wave(value) for value in gone})
    deletes = dict(zip(waves, reversed(waves), strict=True))
    for wave in sorted({*waves, *map(_wave, made), *map(_wave, other)}):
        deleted = [value for value in gone if deletes[_wave(value)] == wave]
        if deleted:
            hold = "; waits until somebody confirms it" if any("Prune=confirm" in _option(v) for v in deleted) else ""
            yield _said(f"wave {wave}: deletes {{}}{hold}", deleted)
        for verb, values in (("changes", other), ("creates", made)):
            if now := [value for value in values if _wave(value) == wave]:
                jobs = [value["spec"]["activeDeadlineSeconds"] for value in now if value["kind"] == "Job"]
                wait = f"; goes on when the Job is complete, at most {-(-max(jobs) // 60)} min" if jobs else ""
                yield _said(f"wave {wave}: {verb} {{}}{wait}", now)
    if pools := tuple(one.pool for one in found.restarts):
        places = ", ".join("{}" for _ in pools)
        yield Line(f"then the controllers replace the pods of {places}", pools)


def _wave(value: Object) -> int:
    return int(value["metadata"].get("annotations", {}).get(f"{_PREFIX}sync-wave", "0"))


def _option(value: Object) -> str:
    return str(value["metadata"].get("annotations", {}).get(f"{_PREFIX}sync-options", ""))


def _said(text: str, values: list[Object]) -> Line:
    names = tuple(f"{value['kind']} {value['metadata']['name']}" for value in values)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return Line(text.replace("{}", ", ".join("{}" for _ in names[:_NAMED]) + more), names[:_NAMED])
