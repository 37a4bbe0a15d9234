"""The process: port, files, signals and clocks around it. Paths and shapes of requests are AIBrix's, so that its clients work."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from aibrix_runtime import metrics, plugin
from aibrix_runtime.access import Access, Caller, Cluster, Tokens, bearer, of_cluster
from aibrix_runtime.adapters import Adapters, Wanted
from aibrix_runtime.config import Config, Mistake, load
from aibrix_runtime.engine import Away, Engine
from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Places, Secret
from aibrix_runtime.fetch.uris import NAME, allowed, checked_name, parse
from aibrix_runtime.load import Board
from aibrix_runtime.models import Models
from aibrix_runtime.observe import PLUGINS, Observer
from aibrix_runtime.store import Store

BODY_BYTES, BODY_S = 64 << 10, 10.0
DRAIN_S, DRAIN_MOST_S = 30.0, 3600.0
_LOOK_S = 0.5
_DIGEST = "sha256:"
_SAID_S = 60.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Options:
    """`tokens`: a file instead of the cluster's ServiceAccounts."""

    config: Path
    bind: str
    port: int
    run: Path
    secrets: Path
    identity: Path
    tokens: Path | None


def log(event: str, /, **fields: object) -> None:
    line = {"time": round(time.time(), 3), "event": event, **fields}
    sys.stderr.write(orjson.dumps(line, default=str).decode() + "\n")
    sys.stderr.flush()


class Server:
    def __init__(self, options: Options, config: Config) -> None:
        """Mistake: the file of tokens is none."""
        self._options, self.config = options, config
        self.own = metrics.Own()
        self.board = Board(random.getrandbits(31), random.randbytes(4).hex())
        self.engine = Engine(config.engine.url)
        self.observer = Observer(lambda: self.config, self.engine, self.board, options.run)
        self.adapters = Adapters(lambda: self.config, self.engine, self.board, time.monotonic, self.observer.in_use)
        staging = (config.adapters.folder if config.adapters else config.models) / ".hub"
        places = Places(config.s3, config.claims, options.secrets, staging)
        if config.adapters:
            self.adapters.store = Store(config.adapters, places, self.adapters.in_engine, self._fetched)
        self.models = Models(config.models, config.models_allow, places, self._fetched)
        self._access: Access
        if options.tokens:
            self._access = Tokens(options.tokens)
        else:
            self._access = Cluster(lambda: self.config, options.identity, of_cluster(options.identity), time.monotonic)
        self._said: dict[str, float] = {}
        self._stopping = asyncio.Event()

    def note(self, event: str, /, **fields: object) -> None:
        self.own.count("runtime_events_total", event=event)
        log(event, **fields)

    async def run(self) -> None:
        """Until SIGTERM. A native sidecar is told to stop after the engine has ended."""
        options, loop = self._options, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        options.run.mkdir(parents=True, exist_ok=True)
        if self.config.engine.kind == "vllm":
            plugin.install(options.run / PLUGINS)
        if self.adapters.store:
            self.adapters.store.prepare()
        self.observer.listen()
        async with self.engine:
            tasks = [
                asyncio.create_task(self._lasting(lambda: self.observer.follow(self.adapters))),
                asyncio.create_task(self._lasting(self._follow_config)),
            ]
            runner = web.AppRunner(self.app(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
            await runner.setup()
            await web.TCPSite(runner, options.bind, options.port, backlog=256).start()
            log("listening", port=options.port)
            await self._stopping.wait()
            log("stopping")
            for task in tasks:
                task.cancel()
            await runner.cleanup()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES, middlewares=[self._answered])
        app.add_routes(
            [
                web.post("/v1/lora_adapter/load", self._allowed("load", self._load)),
                web.post("/v1/lora_adapter/unload", self._allowed("load", self._unload)),
                web.get("/v1/models", self._allowed("read", self._models)),
                web.get("/v1/load", self._allowed("read", self._watch)),
                web.post("/v1/model/download", self._allowed("load", self._download)),
                web.get("/v1/model/list", self._allowed("read", self._list)),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._alive),
                web.get("/readyz", self._ready),
            ]
        )
        return app

    # --- around each request

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every mistake is JSON with a code."""
        try:
            return await handler(request)
        except Failed as error:
            return _failure(error)
        except web.HTTPRequestEntityTooLarge:
            return _failure(Failed("too_large", f"the request has more than {BODY_BYTES} bytes"))
        except web.HTTPException as error:
            return _json(error.status, {"error": {"code": "bad_request", "message": error.reason or ""}})

    def _allowed(self, right: str, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            caller = Caller("", frozenset())
            try:
                caller = await self._access.caller(bearer(request.headers.get("authorization", "")))
                if right not in caller.rights:
                    raise Failed("forbidden", f"{caller.subject} may not do this: the right `{right}` is wanted")
            except Failed as error:
                self._refused(error, caller.subject, request.path)
                raise
            return await handler(request)

        return answer

    def _refused(self, error: Failed, subject: str, path: str) -> None:
        """In the log at most once a minute for each caller."""
        self.own.count("runtime_refused_total", code=error.code)
        now = time.monotonic()
        if now - self._said.get(f"{error.code} {subject}", -_SAID_S) >= _SAID_S:
            if len(self._said) > 1000:
                self._said.clear()
            self._said[f"{error.code} {subject}"] = now
            log("refused", code=error.code, subject=subject, path=path, why=error.message)

    # --- adapters

    async def _load(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name = checked_name(body.get("lora_name"), self.config.engine.model)
        uri = parse(body.get("lora_path"))
        allowed(uri, self.config.adapters.allow if self.config.adapters else ())
        wanted = Wanted(name, uri, _digest(body), _secret(body), _seconds(body))
        try:
            found = await self.adapters.load(wanted)
        except Failed as error:
            self.own.count("runtime_adapter_loads_total", result=error.code)
            log("load_failed", adapter=name, uri=str(uri), code=error.code, why=error.message)
            raise
        self.own.count("runtime_adapter_loads_total", result="loaded")
        self.own.count("runtime_adapter_load_seconds_total", found.seconds)
        log("loaded", adapter=name, digest=found.digest, seconds=round(found.seconds, 3), cached=found.cached)
        row = {"status": "loaded", "lora_name": name, "digest": found.digest, "rank": found.rank}
        return _json(200, row | {"bytes": found.bytes, "cached": found.cached, "seconds": round(found.seconds, 4)})

    async def _unload(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name = checked_name(body.get("lora_name"), self.config.engine.model)
        try:
            await self.adapters.unload(name, _seconds(body))
        except Failed as error:
            self.own.count("runtime_adapter_unloads_total", result=error.code)
            log("unload_failed", adapter=name, code=error.code, why=error.message)
            raise
        self.own.count("runtime_adapter_unloads_total", result="unloaded")
        log("unloaded", adapter=name)
        return _json(200, {"status": "unloaded", "lora_name": name})

    async def _models(self, request: web.Request) -> web.Response:
        try:
            data, rows = await self.engine.models()
        except Away as error:
            raise Failed("engine_away", f"the engine does not answer: {error.why}") from None
        self.adapters.seen(rows)
        for card, row in zip(data["data"], rows, strict=True):
            if row.parent:
                card |= self.adapters.card(row)
        return _json(200, data)

    # --- models

    async def _download(self, request: web.Request) -> web.Response:
        body = await _body(request)
        model = self.models.download(body.get("model_uri"), body.get("local_dir"))
        return _json(200 if model.state == "downloaded" else 202, model.card())

    async def _list(self, request: web.Request) -> web.Response:
        return _json(200, {"object": "list", "data": self.models.cards()})

    # --- what is seen

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.Response(body=self.board.line(), content_type="application/json")
        answer = web.StreamResponse(headers={"content-type": "application/x-ndjson", "cache-control": "no-store"})
        await answer.prepare(request)
        try:
            async for line in self.board.lines():
                if self._stopping.is_set():
                    break
                await answer.write(line)
        except OSError:
            pass  # who watched has gone
        return answer

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            page = await self.engine.page() or b""
        except Away:
            page = b""
        listed = self.adapters.listed or {}
        states = {"announced": len(self.board.adapters), "listed": len(listed)}
        gauges: list[tuple[str, dict[str, float]]] = [
            ("runtime_adapters", dict(states)),
            ("runtime_engine_up", {"": float(self.board.state == "ready")}),
            ("runtime_draining", {"": float(self.board.draining)}),
            ("runtime_resident_bytes", {"": _resident()}),  # process_... are the engine's, on this page
        ]
        if self.adapters.store:
            used = await asyncio.to_thread(self.adapters.store.used)
            gauges.append(("runtime_disk_bytes", {"": float(used)}))
        text = page + metrics.neutral(page, self.config.metrics) + self.own.text(gauges)
        return web.Response(body=text, headers={"content-type": metrics.TYPE})

    async def _alive(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        why = self.board.ready
        return web.Response(text=f"{why}\n" if why else "ready\n", status=503 if why else 200)

    # --- beside requests

    def _fetched(self, count: int) -> None:
        self.own.count("runtime_fetched_bytes_total", count)

    async def _follow_config(self) -> None:
        """What may change while it runs: who may call, what may be fetched, names of metrics. Folders and the engine stay."""
        seen = _stamp(self._options.config)
        while True:
            await asyncio.sleep(_LOOK_S)
            if (stamp := _stamp(self._options.config)) == seen:
                continue
            seen = stamp
            try:
                self.config = load(self._options.config)
                self.models.allow = self.config.models_allow
                self.note("config_loaded")
            except Mistake as error:
                self.note("config_rejected", why=str(error))

    async def _lasting(self, act: Callable[[], Awaitable[None]]) -> None:
        """A mistake of ours in one part must not end the sidecar: it is said, and the part begins anew."""
        while True:
            try:
                await act()
            except Exception as error:
                self.note("broken", why=repr(error))
            await asyncio.sleep(1.0)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        async with asyncio.timeout(BODY_S):
            data = orjson.loads(await request.read())
    except TimeoutError:
        raise Failed("bad_request", f"the request did not come within {BODY_S:g} s") from None
    except orjson.JSONDecodeError as error:
        raise Failed("bad_request", f"the request is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Failed("bad_request", "the request is no JSON object")
    return data


def _digest(body: dict[str, Any]) -> str:
    found = body.get("digest") or ""
    if found and not (
        isinstance(found, str)
        and len(found) == len(_DIGEST) + 64
        and found.startswith(_DIGEST)
        and set(found[len(_DIGEST) :]) <= set("0123456789abcdef")
    ):
        raise Failed("bad_request", "digest is sha256: and 64 hexadecimal digits")
    return found


def _secret(body: dict[str, Any]) -> Secret | None:
    found = body.get("credentials")
    if found is None:
        return None
    names = [found.get("secret"), found.get("key", "token")] if isinstance(found, dict) else []
    if not names or not all(isinstance(one, str) and NAME.fullmatch(one) for one in names):
        raise Failed("bad_request", "credentials is {secret, key}: names of a Secret and of its entry")
    return Secret(*names)


def _seconds(body: dict[str, Any]) -> float:
    found = body.get("drain_s", DRAIN_S)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= DRAIN_MOST_S:
        raise Failed("bad_request", f"drain_s is a number of seconds, at most {DRAIN_MOST_S:g}")
    return float(found)


def _failure(error: Failed) -> web.Response:
    body = {"code": error.code, "message": error.message, **({"engine": error.engine} if error.engine else {})}
    headers = {"www-authenticate": "Bearer"} if error.code == "unauthorized" else {}
    return _json(error.status, {"error": body}, headers)


def _json(status: int, data: object, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(data), content_type="application/json", headers=headers)


def _resident() -> float:
    """Bytes of memory of this process."""
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return float(pages) * os.sysconf("SC_PAGE_SIZE")


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes when the file does, also when a symbolic link on its path is turned."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
