"""The process: clocks around the controller, and what it tells Prometheus."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from aibrix_controllers.kube import process
from aibrix_controllers.kube.api import Api
from aibrix_controllers.scaler.controller import Clock, Controller, Settings


class Server:
    def __init__(self, settings: Settings, api: Api, port: int, bind: str) -> None:
        self._settings, self._api, self._port, self._bind = settings, api, port, bind
        self.controller = Controller(settings, api, Clock(lambda: time.time_ns() // 1000, random.random), self.note)

    def note(self, event: str, /, **fields: object) -> None:
        self.controller.count("scaler_events_total", event=event)
        process.log(event, **fields)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        await process.serve(self.controller, self._api, self._port, self._bind, self._settings.identity, self._rows)

    def _rows(self) -> Iterator[str]:
        return process.metrics("scaler", self.controller.counts, self._api, self._gauges())

    def _gauges(self) -> dict[str, dict[str, float]]:
        one = self.controller
        found: dict[str, dict[str, float]] = {"scaler_leader": {"": one.leader.leads}}
        if not one.leader.leads:  # what another one wanted once is not wanted now
            return found
        found |= {f"scaler_{name}": {} for name in ("wanted", "limited", "missing", "flapping", "held")}
        for known in one.services.values():
            service, decision = known.policy.service, known.decision
            if decision:
                limits = {"max", "maxGPUs", "maxCostPerHour"} & set(decision.limited_by)
                found["scaler_wanted"][service] = decision.value
                found["scaler_limited"][service] = bool(limits)
                found["scaler_missing"][service] = "missing" in decision.limited_by
            found["scaler_flapping"][service] = one.flapping(known)
            found["scaler_held"][service] = known.watched.held
        return found
