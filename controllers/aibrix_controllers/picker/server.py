"""The process: ports, files, signals and clocks around the picker. Why it exists: everything else can be tested without any of them."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from aibrix_controllers.picker import http2, observe
from aibrix_controllers.picker.accesslog import Entries
from aibrix_controllers.picker.config import Config, Mistake, load
from aibrix_controllers.picker.demand import demand
from aibrix_controllers.picker.health import CHECK, WATCH, Health
from aibrix_controllers.picker.http import Page, serve
from aibrix_controllers.picker.http2 import Call, Connection, Methods
from aibrix_controllers.picker.metrics import Metrics
from aibrix_controllers.picker.observe.kubernetes import Server as Kubernetes
from aibrix_controllers.picker.peers import Peers, resolved
from aibrix_controllers.picker.picker import Clock, Picker
from aibrix_controllers.picker.protocol import Stream
from aibrix_controllers.picker.state import State

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ACCESS_LOG = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
DRAIN_SECONDS, LEAVE_SECONDS = 30, 2
"""For requests to end, and for clients to hang up after that."""
_TICK = 0.1  # seconds: how exactly a hold ends
_LOOK = 0.5  # seconds between looks at the config's file
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Options:
    """`endpoints`: a file instead of Kubernetes; `peers`: HOST:PORT, a name of all pickers, or nothing."""

    config: Path
    endpoints: Path | None = None
    bind: str = "0.0.0.0"
    grpc_port: int = 9002
    health_port: int = 9003
    http_port: int = 9090
    peer_port: int = 9004
    peers: str = ""
    runtime_token: Path | None = None


def now_us() -> int:
    return time.monotonic_ns() // 1000


def log(event: str, **fields: Any) -> None:
    line = {"time": round(time.time(), 3), "event": event, **fields}
    sys.stderr.write(orjson.dumps(line, default=str).decode() + "\n")
    sys.stderr.flush()


def tune() -> None:
    """The garbage collector leaves alone what is there now, and looks less often at the rest: requests leave no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Server:
    def __init__(self, options: Options, config: Config) -> None:
        self._options = options
        self.metrics, self.health = Metrics(), Health()
        self.state = State(config, now_us(), sharing=bool(options.peers), dns=options.endpoints is None)
        clock = Clock(now_us, time.time, random.random)
        self.picker = Picker(config, self.state, self.metrics, clock, self.note)
        probed = options.endpoints is not None
        self.fleet = observe.Fleet(self.state, now_us, self.note, probed=probed)
        self.instance = uuid4().hex
        self.peers = Peers(self.state, self.instance, now_us, self.note)
        self.streams = 0
        self._connections: set[Connection] = set()
        self._draining = asyncio.Event()

    def note(self, event: str, /, **fields: object) -> None:
        self.metrics.counts["picker_events_total"][(event,)] += 1
        log(event, **fields)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT, and then until the last request has ended, at most DRAIN_SECONDS."""
        options, loop = self._options, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._draining.set)
        source = options.endpoints or Kubernetes.of(os.environ)
        servers = {
            "grpc": await self._listen(options.grpc_port, {PROCESS: self._process, ACCESS_LOG: self._entries}),
            "health": await self._listen(options.health_port, {CHECK: self.health.check, WATCH: self.health.watch}),
            "http": await serve(self.page, options.bind, options.http_port),
        }
        ports = {name: one.sockets[0].getsockname()[1] for name, one in servers.items()}
        tasks = [
            asyncio.create_task(observe.run(lambda: self.picker.config, self.fleet, source, options.runtime_token)),
            asyncio.create_task(self._begin(ports)),
            asyncio.create_task(self._tick()),
            asyncio.create_task(self._follow_config()),
        ]
        if options.peers:
            listener = socket.create_server((options.bind, options.peer_port))
            ports["peer"] = listener.getsockname()[1]
            tasks.append(asyncio.create_task(self.peers.run(listener, resolved(options.peers))))
        tune()
        await self._draining.wait()
        await self._drain()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in servers.values():
            one.close()
        for connection in list(self._connections):
            connection.close()
        until = now_us() + LEAVE_SECONDS * 1_000_000
        while self._connections and now_us() < until:
            await asyncio.sleep(_TICK)
        for connection in list(self._connections):
            connection.abort()

    async def _listen(self, port: int, methods: Methods) -> asyncio.Server:
        def failed(why: str) -> None:
            self.note("stream_failed", why=why)

        loop = asyncio.get_running_loop()
        return await loop.create_server(
            lambda: Connection(methods, failed, self._connections), self._options.bind, port, backlog=1024
        )

    def _process(self, call: Call) -> http2.Handler:
        self.streams += 1
        return _Process(self, call)

    def _entries(self, call: Call) -> http2.Handler:
        return Entries(self.picker, call.finish)

    async def _begin(self, ports: Mapping[str, int]) -> None:
        log("listening", **ports)
        await self.fleet.begun.wait()
        self.health.set(not self._draining.is_set())
        log("ready", **ports)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self.picker.tick()

    async def _follow_config(self) -> None:
        seen = _stamp(self._options.config)
        while True:
            await asyncio.sleep(_LOOK)
            stamp = _stamp(self._options.config)
            if stamp == seen:
                continue
            seen = stamp
            try:
                config = load(self._options.config)
            except Mistake as error:
                self.metrics.counts["picker_config_rejected_total"][()] += 1
                self.note("config_rejected", why=str(error), version=self.picker.config.version)
                continue
            self.picker.adopt(config)
            self.note("config_loaded", version=config.version)

    async def _drain(self) -> None:
        self.health.set(False)
        log("draining", streams=self.streams)
        for connection in list(self._connections):
            connection.drain()
        until = now_us() + DRAIN_SECONDS * 1_000_000
        while self.streams and now_us() < until:
            await asyncio.sleep(_TICK)
        log("stopped", streams=self.streams)

    def page(self, path: str) -> Page:
        if path == "/metrics":
            return Page(200, self.metrics.text(self.gauges()).encode(), "text/plain; version=0.0.4; charset=utf-8")
        if path == "/healthz":
            return Page(200, b"ok\n")
        if path == "/readyz":
            return Page(200, b"ready\n") if self.health.serving else Page(503, b"not ready\n")
        if path == "/state":
            found = {"config": self.picker.config.version, "services": self.state.describe(now_us())}
            return Page(200, orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n", _JSON)
        if path == "/demand":
            return Page(
                200,
                orjson.dumps({"instance": self.instance, "services": demand(self.state, self.picker.metrics.counts)}),
                _JSON,
            )
        if path.startswith("/explain/"):
            text = self.picker.ring.text(path.removeprefix("/explain/"), time.time())
            return Page(200, text.encode()) if text else Page(404, b"no decision about this request is kept here\n")
        return Page(404, b"/metrics /healthz /readyz /state /demand /explain/REQUEST_ID\n")

    def gauges(self) -> list[tuple[str, str, dict[tuple[tuple[str, str], ...], float]]]:
        fleets, room = self.state.fleets, self.picker.room
        endpoints: dict[tuple[tuple[str, str], ...], float] = {}
        for name, fleet in fleets.items():
            for one in fleet.replicas.values():
                key = (("service", name), ("state", one.status.replace(" ", "_")))
                endpoints[key] = endpoints.get(key, 0) + 1

        def each(values: Mapping[str, float]) -> dict[tuple[tuple[str, str], ...], float]:
            return {(("service", name),): values.get(name, 0) for name in fleets}

        version = self.picker.config.version
        return [
            ("picker_held", "Requests that wait for a replica.", each(self.state.held)),
            ("picker_held_bytes", "Bytes of them.", each(room.bytes)),
            ("picker_in_flight", "Requests sent and not ended.", each({k: v.flying for k, v in fleets.items()})),
            ("picker_endpoints", "Replicas by what this picker thinks of them.", endpoints),
            ("picker_peers", "Other pickers that it hears from.", {(): len(self.peers.connected)}),
            ("picker_config_info", "The config in force.", {(("version", version),): 1}),
        ]


class _Process:
    """One ext_proc stream as a gRPC call."""

    __slots__ = ("_call", "_server", "_stream", "half_closed", "message")

    def __init__(self, server: Server, call: Call) -> None:
        self._server, self._call = server, call
        self._stream = Stream(server.picker, call.send)
        self.message = self._stream.message
        self.half_closed = call.finish

    def closed(self) -> None:
        self._server.streams -= 1
        self._stream.closed()


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes when the file does, also when a symbolic link on its path is turned."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
