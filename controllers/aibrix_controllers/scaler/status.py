"""ScalingPolicy.status, as a function of what was decided: written when it differs by more than figures in a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aibrix_controllers.kube.conditions import MESSAGE, Verdict, condition, stamp

MOST = 20
Object = Mapping[str, Any]


class Change(NamedTuple):
    """Of a number. `wall`: seconds since 1970."""

    wall: float
    target: str
    before: int
    after: int
    reason: str


def status(
    one: Object,
    wanted: Mapping[str, int],
    ready: Mapping[str, int],
    changes: Sequence[Change],
    verdicts: Sequence[Verdict],
    wall: float,
    history: Object,
) -> dict[str, Any]:
    """`wanted` and `ready` by target; `changes` newest first, behind them those of leaders before this one; `history` as it is kept,
    empty to leave what is there."""
    before = one.get("status", {})
    history = history or before.get("history", {})
    rows = [_row(change) for change in changes]
    return {
        **({"history": history} if history else {}),
        "observedGeneration": one["metadata"]["generation"],
        "conditions": [condition(verdict, one, wall) for verdict in verdicts],
        "desired": sum(wanted.values()),
        "ready": sum(ready.values()),
        "targets": [{"name": name, "desired": count, "ready": ready.get(name, 0)} for name, count in wanted.items()],
        "decisions": [*rows, *(row for row in before.get("decisions", ()) if row not in rows)][:MOST],
    }


def _row(change: Change) -> dict[str, Any]:
    return {
        "time": stamp(change.wall),
        "target": change.target,
        "from": change.before,
        "to": change.after,
        "reason": change.reason[:MESSAGE],
    }


def silent(one: Object) -> dict[str, Any]:
    """Without what a look alone changes: the figures in messages."""
    rows = [{key: value for key, value in row.items() if key != "message"} for row in one.get("conditions", ())]
    return {**one, "conditions": rows}
