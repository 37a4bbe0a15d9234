"""ScalingPolicy.status, as a function of what was decided: written when it differs by more than figures in a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

MOST = 20
_MESSAGE = 1024
Object = Mapping[str, Any]


class Change(NamedTuple):
    """Of a number. `wall`: seconds since 1970."""

    wall: float
    target: str
    before: int
    after: int
    reason: str


class Verdict(NamedTuple):
    """A condition."""

    kind: str
    on: bool
    reason: str
    message: str


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
    before, generation = one.get("status", {}), one["metadata"]["generation"]
    history = history or before.get("history", {})
    rows = [_row(change) for change in changes]
    return {
        **({"history": history} if history else {}),
        "observedGeneration": generation,
        "conditions": [_condition(verdict, generation, before, _stamp(wall)) for verdict in verdicts],
        "desired": sum(wanted.values()),
        "ready": sum(ready.values()),
        "targets": [{"name": name, "desired": count, "ready": ready.get(name, 0)} for name, count in wanted.items()],
        "decisions": [*rows, *(row for row in before.get("decisions", ()) if row not in rows)][:MOST],
    }


def _row(change: Change) -> dict[str, Any]:
    return {
        "time": _stamp(change.wall),
        "target": change.target,
        "from": change.before,
        "to": change.after,
        "reason": change.reason[:_MESSAGE],
    }


def silent(one: Object) -> dict[str, Any]:
    """Without what a look alone changes: the figures in messages."""
    rows = [{key: value for key, value in row.items() if key != "message"} for row in one.get("conditions", ())]
    return {**one, "conditions": rows}


def _stamp(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _condition(verdict: Verdict, generation: int, before: Object, stamp: str) -> dict[str, Any]:
    text = "True" if verdict.on else "False"
    old: Object = next((row for row in before.get("conditions", ()) if row["type"] == verdict.kind), {})
    since = old["lastTransitionTime"] if old.get("status") == text and "lastTransitionTime" in old else stamp
    return {
        "type": verdict.kind,
        "status": text,
        "observedGeneration": generation,
        "lastTransitionTime": since,
        "reason": verdict.reason[:128],
        "message": verdict.message[:_MESSAGE],
    }
