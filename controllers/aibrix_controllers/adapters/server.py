"""The process: clocks around the controller, and what it tells Prometheus and people."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import orjson
from aiohttp import web

from aibrix_controllers.adapters.controller import Clock, Controller, Settings
from aibrix_controllers.kube import process
from aibrix_controllers.kube.api import Api


class Server:
    def __init__(self, settings: Settings, api: Api, port: int, bind: str) -> None:
        self._settings, self._api, self._port, self._bind = settings, api, port, bind
        clock = Clock(lambda: time.monotonic_ns() // 1000, time.time, random.random)
        self.controller = Controller(settings, api, clock, self.note)

    def note(self, event: str, /, **fields: object) -> None:
        self.controller.count("adapters_events_total", event=event)
        process.log(event, **fields)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        identity = self._settings.identity
        await process.serve(self.controller, self._api, self._port, self._bind, identity, self._rows, state=self._state)

    def _rows(self) -> Iterator[str]:
        return process.metrics("adapters", self.controller.counts, self._api, self._gauges())

    def _gauges(self) -> dict[str, dict[str, float]]:
        one = self.controller
        now = time.monotonic_ns() // 1000
        return {
            "adapters_leader": {"": one.leader.leads},
            "adapters_streams": {"": one.sidecars.connected},
            "adapters_demand_age_seconds": {"": (now - one.demand.heard) / 1e6},
            "adapters_reconcile_seconds": {"": one.seconds.get("reconcile", 0.0)},
            "adapters_known_age_seconds": {"": max(one.sets.age(), one.pods.age()) if one.synced else 0.0},
            "adapters_desired": {name: len(service.items) for name, service in one.services.items()},
            "adapters_settled": {name: len(todo.settled) for name, todo in one.todo.items()},
            "adapters_failed": {
                name: len({row.adapter for row in todo.wrong if not row.passing}) for name, todo in one.todo.items()
            },
        }

    async def _state(self, request: web.Request) -> web.Response:
        one = self.controller
        found: dict[str, Any] = {
            "leads": one.leader.leads,
            "replicas": {name: line._asdict() for name, line in one.sidecars.lines.items()},
            "services": {
                name: {"placed": todo.placed, "wrong": [row._asdict() for row in todo.wrong]}
                for name, todo in one.todo.items()
            },
        }
        return web.Response(body=orjson.dumps(found, option=orjson.OPT_INDENT_2), content_type="application/json")
