"""An engine that costs next to nothing and counts its calls: several addresses in one process, vLLM's paths and pages.

Why beside the mock: a router that needs 0.1 ms for a request must not wait for an engine that needs 0.3 ms, and the
fault table has to know how often an engine was called, also for requests that it refused. The mock stays the engine
where streams and schedules matter.

`python -m tests.bench.gateway.engine HOST:PORT...` prints a line when it listens. POST /bench/set {"status", "delay",
"waiting", "kv", "metrics"} changes how that address answers; GET /bench/calls tells how often each path was called.
"""

import asyncio
import functools
import json
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import uvloop

MODEL, ADAPTER = "bench-model", "other-tenants-adapter"
"""What it serves."""
REASON = "the engine's own words"
"""The message of every answer that `status` asks for."""
_ANSWER = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 0,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "the " * 16}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 256, "completion_tokens": 16, "total_tokens": 272},
}
_CARDS = [{"id": name, "object": "model", "created": 0, "owned_by": "vllm"} for name in (MODEL, ADAPTER)]
_BEGINNING = 256  # bytes in which conversations differ
_READ = 65536  # bytes of a body whose `model` is looked at; reading 400 KB would cost more than a router does


@dataclass(slots=True)
class Engine:
    """What one address answers with."""

    status: int = 0
    """Of every generation; 0: answers."""
    delay: float = 0.0
    """Seconds before it answers."""
    waiting: int = 0
    kv: float = 0.1
    metrics: bool = True
    """Whether there is a page."""
    calls: Counter[str] = field(default_factory=Counter)
    """By method and path."""

    def answer(self, method: str, path: str, body: bytes, length: int) -> tuple[int, Any]:
        """Status and content; `body` may be no more than the beginning of `length` bytes."""
        if path == "/bench/calls":
            return 200, self.calls
        if path == "/bench/set":
            for name, value in json.loads(body).items():
                setattr(self, name, value)
            return 200, {}
        self.calls[f"{method} {path}"] += 1
        if path == "/metrics" and self.metrics:
            return 200, self.page()
        if path in ("/health", "/ping"):
            return 200, ""
        if path == "/v1/models":
            return 200, {"object": "list", "data": _CARDS}
        if path == "/v1/chat/completions":
            return self.generation(body)
        if path == "/v1/chat/completions/render":
            return 200, _rendered(body[:_BEGINNING], length)
        return 404, _error(404, "Not Found")

    def generation(self, body: bytes) -> tuple[int, Any]:
        if self.status:
            return self.status, _error(self.status, REASON)
        if len(body) >= _READ:
            return 200, _ANSWER
        try:
            model = json.loads(body)["model"]
        except ValueError:
            return 400, _error(400, "JSON decode error")
        except KeyError:
            model = MODEL  # vLLM takes its base model
        if model not in (MODEL, ADAPTER):
            return 404, _error(404, f"The model `{model}` does not exist.")
        return 200, _ANSWER | {"model": model}

    def page(self) -> str:
        """The families that routers read, as vLLM 0.32 names them."""
        label = f'{{engine="0",model_name="{MODEL}"}}'
        gauges = {
            f"vllm:num_requests_running{label}": 256 if self.waiting else 0,
            f"vllm:num_requests_waiting{label}": self.waiting,
            f"vllm:kv_cache_usage_perc{label}": self.kv,
            'vllm:cache_config_info{block_size="16",num_gpu_blocks="25000",kv_cache_size_tokens="400000"}': 1,
        }
        return "".join(
            f"# TYPE {name.partition('{')[0]} gauge\n{name} {float(value)}\n" for name, value in gauges.items()
        )


@functools.cache
def _tokens(count: int) -> str:
    return ",".join(str(1000 + n % 9000) for n in range(count))


def _rendered(beginning: bytes, length: int) -> str:
    """The prompt's tokens, a quarter of its bytes, as vLLM gives them to a router that asks: they begin differently
    for each conversation and are the same after that: writing 100,000 numbers would cost more than the router does."""
    return f'{{"token_ids":[{zlib.crc32(beginning)},{_tokens(length // 4)}]}}'


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "param": None, "code": status}}


class Connection(asyncio.Protocol):
    """One request after the other; the parser calls `on_*`."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._parser = engine, httptools.HttpRequestParser(self)
        self._url, self._body, self._length = b"", bytearray(), 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._length += len(body)
        if len(self._body) < _READ:
            self._body += body

    def on_message_complete(self) -> None:
        path, method = self._url.decode("latin-1").partition("?")[0], self._parser.get_method().decode()
        status, content = self._engine.answer(method, path, bytes(self._body), self._length)
        self._url, self._body, self._length = b"", bytearray(), 0
        text = content if isinstance(content, str) else json.dumps(content)
        kind = "text/plain; version=0.0.4" if path == "/metrics" else "application/json"
        data = text.encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n".encode()
        send = head if method == "HEAD" else head + data
        if self._engine.delay and not path.startswith("/bench"):
            asyncio.get_running_loop().call_later(self._engine.delay, self._send, send)
        else:
            self._send(send)

    def _send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


async def serve(addresses: Sequence[str]) -> None:
    """Until the process ends."""
    loop = asyncio.get_running_loop()
    for address in addresses:
        host, _, port = address.rpartition(":")
        await loop.create_server(functools.partial(Connection, Engine()), host, int(port), backlog=1024)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1:]))
