"""An engine that answers whatever comes and remembers it to the byte: what of a request arrives behind the gateway.

Not the mock: that one answers as vLLM does and keeps nothing of what a client sent.
"""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn

from aibrix_compile.plan import EnvironmentPlan, ServicePlan
from tests.gateway.running import Gateway, wait

_PAGE = "\n".join(
    (
        "vllm:num_requests_running 0",
        "vllm:num_requests_waiting 0",
        "vllm:kv_cache_usage_perc 0",
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="20000"} 1\n',
    )
)
MERGED = 0.3
"""Seconds after which Envoy's workers know what its main thread knows of health: it gathers such news for a moment."""
_QUIET = ("/health", "/metrics")


class Seen(NamedTuple):
    """One request as it arrived; header names as they were spelled."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


class Echo:
    """`status` is what it answers with, after `delay` seconds; `seen` is what came, without Envoy's and the picker's own
    questions."""

    def __init__(self, service: ServicePlan, address: str, *names: str) -> None:
        self.service, self.pool = service.name, service.pools[0].name
        self.address = f"{address}:{service.port}"
        self.names = (service.served_name, *names)
        self.seen: list[Seen] = []
        self.status, self.delay = 200, 0.0
        self._servers = [_server(self._app, address, service.port)]
        if service.runtime:
            self._servers.append(_server(self._sidecar, address, service.runtime.port))
        self._threads = [threading.Thread(target=one.run, daemon=True) for one in self._servers]
        for thread in self._threads:
            thread.start()

    def ready(self) -> None:
        wait(lambda: all(one.started for one in self._servers), 10)

    async def _sidecar(self, scope: Any, receive: Any, send: Any) -> None:
        """What pickers and Envoy ask of the sidecar: whether it is ready, and its load, in which nothing moves."""
        if scope["type"] != "http":
            return
        adapters = [{"name": name, "digest": "", "rank": 8, "uri": ""} for name in self.names[1:]]
        line = {"engine": "ready", "draining": False, "running": 0, "waiting": 0, "kv_used": 0.0, "kv_tokens": 320_000}
        line |= {"source": "plugin"}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] == "/v1/load" and not self._servers[0].should_exit:
            body = json.dumps(line | {"adapters": adapters}).encode() + b"\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": b""})

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        path = scope["raw_path"].decode("latin-1") + (
            "?" + scope["query_string"].decode() if scope["query_string"] else ""
        )
        status, content = 200, b""
        if path in _QUIET:
            content = _PAGE.encode() if path == "/metrics" else b""
        elif path == "/v1/models" and scope["method"] == "GET":  # the picker asks which adapters are there
            content = json.dumps({"object": "list", "data": [{"id": name} for name in self.names]}).encode()
        else:
            headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
            self.seen.append(Seen(scope["method"], path, headers, bytes(body)))
            await asyncio.sleep(self.delay)
            status, content = self.status, json.dumps(_answer(self.status, self.address)).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    def close(self) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.should_exit = True
            thread.join(10)


def _server(app: Any, address: str, port: int) -> uvicorn.Server:
    settings: dict[str, Any] = {"log_level": "error", "lifespan": "off", "interface": "asgi3"}
    return uvicorn.Server(uvicorn.Config(app, address, port, timeout_graceful_shutdown=1, **settings))


def _answer(status: int, address: str) -> dict[str, Any]:
    if status != 200:
        return {"error": {"message": "the engine's own words", "type": "InternalServerError", "code": status}}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"object": "chat.completion", "from": address, "choices": [], "usage": usage}


@contextmanager
def echoing(plan: EnvironmentPlan, replicas: Mapping[str, int], *adapters: str, pickers: int = 1) -> Iterator[Gateway]:
    """A gateway with so many of them for each service; those of services with adapters list `adapters`."""
    gateway = Gateway(plan)
    services = {service.name: service for service in plan.services}
    try:
        for name, count in replicas.items():
            for _ in range(count):
                names = adapters if services[name].adapters else ()
                engine = Echo(services[name], gateway.address(), *names)
                gateway.engines.append(engine)  # type: ignore[arg-type] # it has what a gateway asks of an engine
        gateway.start({}, pickers, 1, {})
        gateway.settled()
        time.sleep(MERGED)
        yield gateway
    finally:
        gateway.close()


def echoes(gateway: Gateway, service: str = "") -> list[Echo]:
    """Those of a service, or all; they have seen nothing yet."""
    engines: list[Any] = list(gateway.engines)
    found = [one for one in engines if isinstance(one, Echo) and service in ("", one.service)]
    for engine in found:
        engine.seen.clear()
        engine.status, engine.delay = 200, 0.0
    return found
