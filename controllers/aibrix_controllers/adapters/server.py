"""The process: port, signals and clocks around the controller, and pages for Prometheus, the kubelet and people."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import orjson
from aiohttp import web

from aibrix_controllers.adapters.controller import Clock, Controller, Settings
from aibrix_controllers.kube.api import Api

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def log(event: str, /, **fields: object) -> None:
    line = {"time": round(time.time(), 3), "event": event, **fields}
    sys.stderr.write(orjson.dumps(line, default=str).decode() + "\n")
    sys.stderr.flush()


class Server:
    def __init__(self, settings: Settings, api: Api, port: int, bind: str) -> None:
        self._settings, self._api, self._port, self._bind = settings, api, port, bind
        clock = Clock(lambda: time.monotonic_ns() // 1000, time.time, random.random)
        self.controller = Controller(settings, api, clock, self.note)

    def note(self, event: str, /, **fields: object) -> None:
        self.controller.count("adapters_events_total", event=event)
        log(event, **fields)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        app = web.Application()
        pages = {"/metrics": self._metrics, "/healthz": self._alive, "/readyz": self._ready, "/state": self._state}
        app.add_routes([web.get(path, handler) for path, handler in pages.items()])
        app.add_routes([web.get("/explain/{adapter}", self._explain)])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, self._bind, self._port)
        await site.start()
        log("listening", address=site.name, identity=self._settings.identity)
        async with self._api:
            work = asyncio.create_task(self.controller.run())
            stop = asyncio.create_task(stopping.wait())
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            for task in (work, stop):
                task.cancel()
            await asyncio.gather(stop, return_exceptions=True)
            await asyncio.gather(work, return_exceptions=not work.done() or work.cancelled())
        await runner.cleanup()

    async def _alive(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        ready = self.controller.synced
        return web.Response(text="ready\n" if ready else "not synced\n", status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text="\n".join(self._lines()) + "\n", headers={"content-type": _TYPE})

    def _lines(self) -> Iterator[str]:
        one = self.controller
        rows: dict[str, list[str]] = {}
        counts = {**one.counts}
        for (verb, code), count in self._api.counts.items():
            counts["adapters_api_requests_total", (("code", code), ("verb", verb))] = count
        for (name, labels), value in sorted(counts.items()):
            shown = ",".join(f'{key}="{text}"' for key, text in labels)
            rows.setdefault(name, []).append(f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:g}")
        for name, found in rows.items():
            yield f"# TYPE {name} counter"
            yield from found
        yield f"# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {time.process_time():g}"
        now = time.monotonic_ns() // 1000
        gauges: dict[str, dict[str, float]] = {
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
        for name, values in gauges.items():
            yield f"# TYPE {name} gauge"
            for service, value in values.items():
                yield f'{name}{{service="{service}"}} {value:g}' if service else f"{name} {value:g}"

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

    async def _explain(self, request: web.Request) -> web.Response:
        text = self.controller.explain(request.match_info["adapter"])
        return web.Response(text=text or "no set has an adapter of that name\n", status=200 if text else 404)
