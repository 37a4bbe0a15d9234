"""The process: port, signals and clocks around the controller, and pages for Prometheus, the kubelet and people."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Iterator

import orjson
from aiohttp import web

from aibrix_controllers.kube.api import Api
from aibrix_controllers.scaler.controller import Clock, Controller, Settings

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def log(event: str, /, **fields: object) -> None:
    line = {"time": round(time.time(), 3), "event": event, **fields}
    sys.stderr.write(orjson.dumps(line, default=str).decode() + "\n")
    sys.stderr.flush()


class Server:
    def __init__(self, settings: Settings, api: Api, port: int, bind: str) -> None:
        self._settings, self._api, self._port, self._bind = settings, api, port, bind
        self.controller = Controller(settings, api, Clock(lambda: time.time_ns() // 1000, random.random), self.note)

    def note(self, event: str, /, **fields: object) -> None:
        self.controller.count("scaler_events_total", event=event)
        log(event, **fields)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        app = web.Application()
        pages = {"/metrics": self._metrics, "/healthz": self._alive, "/readyz": self._ready}
        app.add_routes([web.get(path, handler) for path, handler in pages.items()])
        app.add_routes([web.get("/explain/{service}", self._explain)])
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
        synced = self.controller.synced
        return web.Response(text="ok\n" if synced else "not synced\n", status=200 if synced else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body="\n".join(self._rows()) + "\n", headers={"content-type": _TYPE})

    def _rows(self) -> Iterator[str]:
        one, rows = self.controller, dict[str, list[str]]()
        counts = dict(one.counts)
        for (verb, code), count in self._api.counts.items():
            counts["scaler_api_requests_total", (("code", code), ("verb", verb))] = count
        for (name, labels), value in sorted(counts.items()):
            shown = ",".join(f'{key}="{text}"' for key, text in labels)
            rows.setdefault(name, []).append(f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:g}")
        for name, found in rows.items():
            yield f"# TYPE {name} counter"
            yield from found
        yield f"# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {time.process_time():g}"
        yield f"# TYPE scaler_leader gauge\nscaler_leader {int(one.leader.leads)}"
        if one.leader.leads:  # what another one wanted once is not wanted now
            yield from self._services()

    def _services(self) -> Iterator[str]:
        names = ("wanted", "limited", "missing", "flapping", "held")
        gauges: dict[str, dict[str, float]] = {f"scaler_{name}": {} for name in names}
        for one in self.controller.services.values():
            service, decision = one.policy.service, one.decision
            if decision:
                limits = {"max", "maxGPUs", "maxCostPerHour"} & set(decision.limited_by)
                gauges["scaler_wanted"][service] = decision.value
                gauges["scaler_limited"][service] = bool(limits)
                gauges["scaler_missing"][service] = "missing" in decision.limited_by
            gauges["scaler_flapping"][service] = self.controller.flapping(one)
            gauges["scaler_held"][service] = one.watched.held
        for name, values in gauges.items():
            yield f"# TYPE {name} gauge"
            for service, value in values.items():
                yield f'{name}{{service="{service}"}} {value:g}'

    async def _explain(self, request: web.Request) -> web.Response:
        text = self.controller.explain(request.match_info["service"])
        return web.Response(text=text or "no policy is of a service of that name\n", status=200 if text else 404)
