"""Conditions of a status, as Kubernetes wants them: a time that moves only with the answer, texts within the definition's bounds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

MESSAGE = 1024
"""Characters of any message in our definitions."""


class Verdict(NamedTuple):
    """A condition before it has a time."""

    kind: str
    on: bool
    reason: str
    message: str


def stamp(wall: float) -> str:
    """Seconds since 1970."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(verdict: Verdict, one: Mapping[str, Any], wall: float) -> dict[str, Any]:
    """Of the object, whose present status says since when."""
    text = "True" if verdict.on else "False"
    rows = one.get("status", {}).get("conditions", ())
    old: Mapping[str, Any] = next((row for row in rows if row["type"] == verdict.kind), {})
    since = old["lastTransitionTime"] if old.get("status") == text and "lastTransitionTime" in old else stamp(wall)
    return {
        "type": verdict.kind,
        "status": text,
        "observedGeneration": one["metadata"]["generation"],
        "lastTransitionTime": since,
        "reason": verdict.reason[:128],
        "message": verdict.message[:MESSAGE],
    }
