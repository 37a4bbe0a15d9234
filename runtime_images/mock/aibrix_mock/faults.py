"""Switches that make the engine fail as engines fail, for tests of what stands in front of it. They exist only with
AIBRIX_MOCK_FAULTS=1; the last one set is the one in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aibrix_mock.engine import Engine
from aibrix_mock.openai import ApiError, refused

KINDS = {"none", "die", "hang", "slow", "queue_full", "kv", "status", "metrics_gone"}
_RANGES = {"slow": (0.001, 1000), "kv": (0, 1), "status": (400, 599)}


class Faults:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.kind, self._value = "none", 0.0

    def set(self, body: Mapping[str, Any]) -> None:
        """{"kind": KIND}, with "value": `slow` makes steps that many times as long, `kv` takes that share of the blocks
        away, `status` answers with it. `die` can not be taken back."""
        kind, value = body.get("kind"), body.get("value", 0)
        if kind not in KINDS or not isinstance(value, (int, float)):
            raise ApiError(f"kind is one of {', '.join(sorted(KINDS))}; value is a number")
        low, high = _RANGES.get(kind, (value, value))
        if not low <= value <= high:
            raise ApiError(f"{value} is no value of {kind}")
        self.kind, self._value = kind, value
        core = self._engine.core
        core.slowness = value if kind == "slow" else 1.0
        core.pool.hold(value if kind == "kv" else 0.0)
        self._engine.hanging = kind == "hang"
        if kind == "die":
            self._engine.die("a fault was asked for")
        self._engine.wake()

    def refuse(self) -> None:
        """Raises what a new request is answered with."""
        if self.kind == "status":
            raise refused(int(self._value), "a fault was asked for")
        if self.kind == "queue_full":
            self._engine.core.stats.rejected["max_num_queued_reqs"] += 1
            raise refused(503, "The engine is currently busy and cannot accept new requests.")
