"""AdapterSet.status: a function of what was decided, so that it can be compared with what stands there and written when it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aibrix_controllers.adapters.decide import Todo, Wrong
from aibrix_controllers.adapters.wanted import Service

MOST = 100
"""Exceptions of one set; the definition takes no more."""
_MESSAGE = 1024
Object = Mapping[str, Any]


def status(one: Object, service: Service, todo: Todo, *, ready: int, wall: float) -> dict[str, Any]:
    """Of one set. `ready`: replicas that serve; `wall`: seconds since 1970. Times of conditions that did not change stay."""
    name = one["metadata"]["name"]
    items = [item.name for item in service.items.values() if item.home == name]
    own = set(items)
    wrong = [row for row in todo.wrong if row.adapter in own]
    failed = {row.adapter for row in wrong if not row.passing}
    passing = {row.adapter for row in wrong if row.passing and row.reason != "NoReplicas"}
    counts = {"desired": len(items), "loaded": sum(row in todo.settled for row in items), "failed": len(failed)}
    before = one.get("status", {})
    stamp = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    generation = one["metadata"]["generation"]
    conditions = [
        _condition(kind, on, reason, message, generation, before, stamp)
        for kind, on, reason, message in _verdicts(items, wrong, failed, passing, ready)
    ]
    ordered = sorted(
        wrong, key=lambda row: (row.passing, -service.items[row.adapter].priority, row.adapter, row.replica)
    )
    rows = [
        {"name": row.adapter, "replica": row.replica, "reason": row.reason, "message": row.message[:_MESSAGE]}
        for row in ordered[:MOST]
    ]
    return {"observedGeneration": generation, "conditions": conditions, "counts": counts, "exceptions": rows}


def _verdicts(
    items: Sequence[str], wrong: Sequence[Wrong], failed: set[str], passing: set[str], ready: int
) -> list[tuple[str, bool, str, str]]:
    if failed:
        first = next(row for row in wrong if not row.passing)
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        degraded = True, first.reason, f"{first.adapter}{more}: {first.message}"
    else:
        degraded = False, "AsWanted", ""
    if passing:
        progressing = True, "Loading", f"{len(passing)} of {len(items)} adapters are on their way"
    else:
        progressing = False, "Settled", ""
    whole = not failed and not passing and ready > 0
    missing = (
        "no replica is ready"
        if not ready
        else f"{len(failed | passing)} of {len(items)} adapters are not where they should be"
    )
    good = "AllLoaded" if whole else "NoReplicas" if not ready else "NotLoaded"
    return [("Ready", whole, good, "" if whole else missing), ("Progressing", *progressing), ("Degraded", *degraded)]


def _condition(
    kind: str, on: bool, reason: str, message: str, generation: int, before: Object, stamp: str
) -> dict[str, Any]:
    text = "True" if on else "False"
    old: Object = next((row for row in before.get("conditions", ()) if row["type"] == kind), {})
    since = old["lastTransitionTime"] if old.get("status") == text and "lastTransitionTime" in old else stamp
    return {
        "type": kind,
        "status": text,
        "observedGeneration": generation,
        "lastTransitionTime": since,
        "reason": reason[:128],
        "message": message[:_MESSAGE],
    }
