"""AdapterSet.status: a function of what was decided, so that it can be compared with what stands there and written when it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aibrix_controllers.adapters.decide import Todo, Wrong
from aibrix_controllers.adapters.wanted import Service
from aibrix_controllers.kube.conditions import MESSAGE, Verdict, condition

MOST = 100
"""Exceptions of one set; the definition takes no more."""
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
    conditions = [condition(verdict, one, wall) for verdict in _verdicts(items, wrong, failed, passing, ready)]
    ordered = sorted(
        wrong, key=lambda row: (row.passing, -service.items[row.adapter].priority, row.adapter, row.replica)
    )
    rows = [
        {"name": row.adapter, "replica": row.replica, "reason": row.reason, "message": row.message[:MESSAGE]}
        for row in ordered[:MOST]
    ]
    return {
        "observedGeneration": one["metadata"]["generation"],
        "conditions": conditions,
        "counts": counts,
        "exceptions": rows,
    }


def _verdicts(
    items: Sequence[str], wrong: Sequence[Wrong], failed: set[str], passing: set[str], ready: int
) -> list[Verdict]:
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
    return [
        Verdict("Ready", whole, good, "" if whole else missing),
        Verdict("Progressing", *progressing),
        Verdict("Degraded", *degraded),
    ]
