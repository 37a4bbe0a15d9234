"""What tests of observation share: a state to look into, notes that are kept, servers that answer as they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aibrix_controllers.picker.config import Config, parse
from aibrix_controllers.picker.observe import Fleet
from aibrix_controllers.picker.state import State

NAMES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "cache_config": "vllm:cache_config_info",
}
LABELS = 'engine="0",model_name="base"'
PAGE = f"""# HELP vllm:num_requests_running Requests in the batch.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{LABELS}}} 3.0
vllm:num_requests_waiting{{{LABELS}}} 2.0
vllm:num_requests_waiting_by_reason{{{LABELS},reason="capacity"}} 77.0
vllm:kv_cache_usage_perc{{{LABELS}}} 0.25
vllm:cache_config_info{{block_size="16",hash_block_size="64",num_gpu_blocks="1000",num_gpu_blocks_override="None"}} 1.0
""".encode()


def configured(*services: str, **more: Any) -> Config:
    rows = {
        name: {"port": 8000, "model": "base", "pools": {}, "metrics": NAMES, "namespace": f"ns-{name}", "host": name}
        | more
        for name in services or ("chat",)
    }
    return parse({"version": "1", "services": rows, "clusters": {}})


def clock() -> int:
    return time.monotonic_ns() // 1000


class Notes(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))

    def count(self, event: str) -> int:  # type: ignore[override]
        return sum(name == event for name, _ in self)


def fleet(config: Config, *, probed: bool = False) -> tuple[Fleet, State, Notes]:
    state, notes = State(config, clock()), Notes()
    return Fleet(state, clock, notes, probed=probed), state, notes


def status(state: State, service: str = "chat") -> dict[str, str]:
    return {address: one.status for address, one in state.fleets[service].replicas.items()}


async def until(true: Callable[[], object], seconds: float = 5) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "it did not come to that"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(work: Awaitable[Any]) -> AsyncIterator[None]:
    """In the background; what it dies of fails the test."""
    task = asyncio.ensure_future(work)
    try:
        yield
        if task.done():
            task.result()
            raise AssertionError("it ended by itself")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def answer(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body


class Engine:
    """A server that answers GETs with `pages`, raw bytes by path, `delay` seconds late. For what no real engine does on demand."""

    def __init__(self, **pages: bytes) -> None:
        self.pages = {"/metrics": answer(PAGE)} | {f"/{name}": page for name, page in pages.items()}
        self.delay = 0.0
        self.asked: list[str] = []
        self.opened = 0
        self.address = ""

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[Engine]:
        open_: set[asyncio.StreamWriter] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.opened += 1
            open_.add(writer)
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    path = head.split(b" ", 2)[1].decode()
                    self.asked.append(path)
                    await asyncio.sleep(self.delay)
                    writer.write(self.pages.get(path.removeprefix("/v1"), answer(b"", 404)))
                    await writer.drain()
            open_.discard(writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", port)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in open_:
                writer.transport.abort()
