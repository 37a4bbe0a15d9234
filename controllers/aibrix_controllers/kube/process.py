"""A controller as a process: its command line, port, signals and log; pages for Prometheus, the kubelet and people."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import orjson
from aiohttp import web

from aibrix_controllers.kube.api import Api

Counts = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
"""By name and sorted labels."""
Gauges = Mapping[str, Mapping[str, float]]
"""By name and service; the empty name is nobody's."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Work(Protocol):
    """What runs in it. `explain` is empty for what it does not know."""

    @property
    def synced(self) -> bool: ...

    async def run(self) -> None: ...

    def explain(self, name: str) -> str: ...


def log(event: str, /, **fields: object) -> None:
    line = {"time": round(time.time(), 3), "event": event, **fields}
    sys.stderr.write(orjson.dumps(line, default=str).decode() + "\n")
    sys.stderr.flush()


# --- pages


def metrics(prefix: str, counts: Counts, api: Api, gauges: Gauges) -> Iterator[str]:
    rows: dict[str, list[str]] = {}
    every = dict(counts)
    for (verb, code), count in api.counts.items():
        every[f"{prefix}_api_requests_total", (("code", code), ("verb", verb))] = count
    for (name, labels), value in sorted(every.items()):
        shown = ",".join(f'{key}="{text}"' for key, text in labels)
        rows.setdefault(name, []).append(f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:g}")
    for name, found in rows.items():
        yield f"# TYPE {name} counter"
        yield from found
    yield f"# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {time.process_time():g}"
    for name, values in gauges.items():
        yield f"# TYPE {name} gauge"
        for service, value in values.items():
            yield f'{name}{{service="{service}"}} {value:g}' if service else f"{name} {value:g}"


async def serve(
    work: Work, api: Api, port: int, bind: str, identity: str, rows: Callable[[], Iterator[str]], **more: Handler
) -> None:
    """Until SIGTERM or SIGINT. `rows` of /metrics; `more` pages by name."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    async def alive(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if work.synced else web.Response(text="not synced\n", status=503)

    async def told(request: web.Request) -> web.Response:
        return web.Response(body="\n".join(rows()) + "\n", headers={"content-type": _TYPE})

    async def explained(request: web.Request) -> web.Response:
        text = work.explain(request.match_info["name"])
        return web.Response(text=text or "nothing here has that name\n", status=200 if text else 404)

    app = web.Application()
    pages: dict[str, Handler] = {
        "metrics": told,
        "healthz": alive,
        "readyz": ready,
        "explain/{name}": explained,
        **more,
    }
    app.add_routes([web.get(f"/{path}", handler) for path, handler in pages.items()])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, bind, port)
    await site.start()
    log("listening", address=site.name, identity=identity)
    async with api:
        task = asyncio.create_task(work.run())
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        for one in (task, stop):
            one.cancel()
        await asyncio.gather(stop, return_exceptions=True)
        await asyncio.gather(task, return_exceptions=not task.done() or task.cancelled())
    await runner.cleanup()


# --- the command line


def parser(name: str, about: str | None, does: str, asks: str, what: str, why: str) -> tuple[Any, Any]:
    """The whole, and that of `run`, which may have more. `asks`: of pickers; `what` is explained."""
    whole = argparse.ArgumentParser(prog=f"python -m aibrix_controllers.{name}", description=about)
    commands = whole.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help=does)
    run.add_argument("--namespace", required=True, help="of the services")
    run.add_argument(
        "--pickers", action="append", default=[], metavar="HOST:PORT", help=f"whom to ask {asks}; a name of all of them"
    )
    run.add_argument("--runtime-token", type=Path, metavar="FILE", help="shown to sidecars; read anew as it rotates")
    own = os.environ.get("POD_NAME") or socket.gethostname()
    run.add_argument("--identity", default=own, help="name in the Lease; default: the pod's")
    run.add_argument("--bind", default="0.0.0.0")
    run.add_argument("--http-port", type=int, default=9090, help="metrics, health and state; 0: any that is free")
    run.add_argument("--api", metavar="URL", help="API server, instead of the cluster around it")
    run.add_argument("--api-token", type=Path, metavar="FILE")
    run.add_argument("--ca", type=Path, metavar="FILE", help="certificate of --api's authority")
    explain = commands.add_parser("explain", help=why)
    explain.add_argument("name", metavar=what)
    explain.add_argument("--address", required=True, help="HOST:PORT of a controller")
    return whole, run


def execute(options: argparse.Namespace, run: Callable[[Api], Coroutine[Any, Any, None]]) -> int:
    """The exit status; a mistake is one line."""
    if options.command == "explain":
        return _explain(options)
    import uvloop

    try:
        uvloop.run(run(Api(options.api, options.api_token, options.ca) if options.api else Api.in_cluster()))
    except LookupError as error:
        sys.stderr.write(f"neither --api nor a cluster around it: {error} is not set\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _explain(options: argparse.Namespace) -> int:
    try:
        with urllib.request.urlopen(f"http://{options.address}/explain/{quote(options.name)}", timeout=10) as answer:
            sys.stdout.write(answer.read().decode())
    except urllib.error.HTTPError as error:
        sys.stderr.write(error.read().decode("utf-8", "replace"))
        return 1
    except OSError as error:
        sys.stderr.write(f"{options.address} does not answer: {error}\n")
        return 2
    return 0
