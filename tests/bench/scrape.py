"""What it costs the picker to ask engines how they are: `python -m tests.bench.scrape`. It prints figures and asserts nothing
about time.

One mock engine gives its pages; a process apart serves them at 100 addresses, as mock engines that many would need more cores
than there are. CPU is that of the asking process alone. `aiohttp` asks the same with the usual client, where it is installed.
"""

import asyncio
import multiprocessing
import random
import re
import time
import timeit
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import cast

import httptools
from prometheus_client.parser import text_string_to_metric_families

from aibrix_controllers.picker.config import Config, parse
from aibrix_controllers.picker.observe import Fleet, Replica, scrape, stream
from aibrix_controllers.picker.observe.scanner import Scanner
from aibrix_controllers.picker.state import State
from tests.bench.mock import engine

REPLICAS, SECONDS = 100, 10
NAMES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "cache_config": "vllm:cache_config_info",
}


LINE = (
    b'{"engine":"ready","why":"","source":"plugin","incarnation":"i","running":%d,"waiting":0,"kv_used":0.1,"kv_tokens":400000,'
    b'"in_flight_tokens":40000,"draining":false,"revision":1,"totals":{"requests":1.0,"prompt_tokens":2.0,"output_tokens":3.0}}\n'
)
"""As sidecars write it."""


class Served(asyncio.Protocol):
    """Answers each request with the bytes for its path; /v1/load?watch=1 with a line each second, ?watch=busy with 20."""

    def __init__(self, pages: dict[bytes, bytes]) -> None:
        self._pages = pages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        if self._url.startswith(b"/v1/load"):
            self._transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            self._say(0, 1.0 if self._url.endswith(b"1") else 0.05)
            return
        page = self._pages[self._url]
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(page) + page)

    def _say(self, number: int, pause: float) -> None:
        line = LINE % (number if pause < 1 else 0)
        self._transport.write(b"%x\r\n%s\r\n" % (len(line), line))
        if not self._transport.is_closing():
            asyncio.get_running_loop().call_later(pause, self._say, number + 1, pause)


def serve(pages: dict[bytes, bytes], told: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Served(pages), "0.0.0.0", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


def config(adapters: bool) -> Config:
    service = {"port": 8000, "model": "m", "pools": {}, "metrics": NAMES}
    if adapters:
        service["adapters"] = {"everywhere": ["one"], "placed": []}
    return parse({"version": "1", "services": {"chat": service}, "clusters": {}})


async def ours(port: int, adapters: bool) -> None:
    chosen = config(adapters)
    fleet = Fleet(State(chosen, 0), lambda: time.monotonic_ns() // 1000, lambda event, **fields: print(event, fields))
    rows = {f"127.0.1.{number}:{port}": Replica("", ready=True) for number in range(1, REPLICAS + 1)}
    fleet.replace("chat", rows)
    await scrape.follow(lambda: chosen, fleet, random.random)


async def streams(port: int, busy: bool) -> None:
    """The picker, told by sidecars."""
    service = {"port": port, "model": "m", "pools": {}, "metrics": NAMES, "runtime": {"port": port}}
    chosen = parse({"version": "1", "services": {"chat": service}, "clusters": {}})
    stream.PATH = "/v1/load?watch=busy" if busy else "/v1/load?watch=1"
    fleet = Fleet(State(chosen, 0), lambda: time.monotonic_ns() // 1000, lambda event, **fields: print(event, fields))
    rows = {f"127.0.1.{number}:{port}": Replica("", ready=True) for number in range(1, REPLICAS + 1)}
    fleet.replace("chat", rows)
    await scrape.follow(lambda: chosen, fleet, random.random)


async def usual(port: int, adapters: bool) -> None:
    import aiohttp

    scanner = Scanner(NAMES)

    async def follow(client: aiohttp.ClientSession, number: int) -> None:
        await asyncio.sleep(random.random())
        while True:
            async with client.get(f"http://127.0.1.{number}:{port}/metrics") as answer:
                assert not isinstance(scanner.scan(await answer.read()), str)
            if adapters:
                async with client.get(f"http://127.0.1.{number}:{port}/v1/models") as answer:
                    scrape.served(await answer.read())
            await asyncio.sleep(1)

    limits = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=0.8)) as client:
        await asyncio.gather(*(follow(client, number) for number in range(1, REPLICAS + 1)))


def share(work: Callable[[int, bool], Awaitable[None]], port: int, adapters: bool, uvloop: bool) -> float:
    """Of a core, after two seconds in which connections are made."""

    async def run() -> float:
        task = asyncio.ensure_future(work(port, adapters))
        await asyncio.sleep(2)
        before, began = time.process_time(), time.monotonic()
        await asyncio.sleep(SECONDS)
        used = (time.process_time() - before) / (time.monotonic() - began)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return used

    factory = __import__("uvloop").new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(run())


def per_call(work: Callable[[], object], times: int) -> float:
    """Microseconds of CPU."""
    return min(timeit.repeat(work, number=times, repeat=5, timer=time.process_time)) / times * 1e6


def main() -> None:
    with engine(1000) as (port, _):
        url = f"http://127.0.0.1:{port}"
        pages = {path: urllib.request.urlopen(url + path.decode()).read() for path in (b"/metrics", b"/v1/models")}
    page, scanner = pages[b"/metrics"], Scanner(NAMES)
    text = page.decode()
    print(f"a page of {len(page) / 1024:.0f} KiB, {scanner.scan(page)}")
    print(f"  scanner                 {per_call(lambda: scanner.scan(page), 200):8.0f} us")
    lines = re.compile(rb"\n")
    print(f"  splitting it into lines {per_call(lambda: lines.split(page), 200):8.0f} us")
    print(f"  prometheus_client       {per_call(lambda: list(text_string_to_metric_families(text)), 2):8.0f} us")
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(pages, there), daemon=True)
    process.start()
    served = here.recv()
    print(f"{REPLICAS} replicas, each once a second: share of a core")
    for title, work in (("picker", ours), ("aiohttp", usual)):
        for loop in (False, True):
            found = [share(work, served, adapters, loop) for adapters in (False, True)]
            name = f"{title}, {'uvloop' if loop else 'asyncio'}"
            print(f"  {name:17s} /metrics {found[0]:.3f}   and /v1/models {found[1]:.3f}")
    print(f"{REPLICAS} replicas whose sidecars tell their load: share of a core")
    for loop in (False, True):
        found = [share(streams, served, busy, loop) for busy in (False, True)]
        print(f"  picker, {'uvloop' if loop else 'asyncio':9s} idle {found[0]:.3f}   20 lines/s each {found[1]:.3f}")
    process.terminate()


if __name__ == "__main__":
    main()
