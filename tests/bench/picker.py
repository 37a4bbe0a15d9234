"""What a pick costs: CPU of the picker's process per request, and its memory over many. `python -m tests.bench.picker`.

The picker runs in a process of its own with 8 replicas and strategy cost; the load comes over one HTTP/2 connection, as from one
Envoy, written frame by frame so that the client is not the limit. Beside ours stand the same picker behind grpc.aio and behind
gRPC's threads (pip install grpcio). CPU time, so other load on the machine moves the figures little; nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    ProcessingRequest,
    ProtocolConfiguration,
)

from aibrix_compile.policy.profile import TABLE
from aibrix_controllers.picker.config import Config, Pool, Service
from aibrix_controllers.picker.http2 import Call, Connection
from aibrix_controllers.picker.metrics import Metrics
from aibrix_controllers.picker.picker import Clock, Picker
from aibrix_controllers.picker.protocol import Stream
from aibrix_controllers.picker.server import PROCESS, now_us, tune
from aibrix_controllers.picker.state import State

SERVERS = ("ours", "grpc.aio", "grpc threads")


def picker(replicas: int, adapters: int) -> Picker:
    """As `run` builds it, with replicas that are all ready."""
    pool = Pool(TABLE["h100/8b"], 256, 8, 16)
    names = frozenset(f"adapter-{number:05}" for number in range(adapters))
    service = Service("chat", "a", "chat.a", 8000, "llama", {"h100": pool}, everywhere=names)
    config = Config("bench", {"chat": service}, {"chat": ("chat",)})
    state = State(config, now_us())
    made = Picker(config, state, Metrics(), Clock(now_us, time.time, random.random), lambda event, **fields: None)
    for number in range(replicas):
        address = f"10.0.0.{number + 1}:8000"
        state.replica("chat", address, "h100", ready=True, draining=False, incarnation="", now=now_us())
        state.report("chat", address, running=3, waiting=0, kv_share=0.1, kv_tokens=400_000, now=now_us())
    return made


# servers, in a process of their own


def serve(kind: str, replicas: int, adapters: int) -> None:
    """Prints its port, then CPU seconds and megabytes for each line that comes in."""
    made = picker(replicas, adapters)
    if kind == "grpc threads":
        _threads(made)
        return
    import uvloop

    uvloop.run(_ours(made) if kind == "ours" else _aio(made))


def _told(port: int) -> None:
    print(port, flush=True)
    for _ in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps([used.ru_utime + used.ru_stime, _resident()]), flush=True)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def _ours(made: Picker) -> None:
    class Handler:
        def __init__(self, call: Call) -> None:
            self._stream = Stream(made, call.send)
            self.message, self.half_closed, self.closed = self._stream.message, call.finish, self._stream.closed

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection({PROCESS: Handler}, print, set()), "127.0.0.1", 0)
    tune()
    await asyncio.to_thread(_told, server.sockets[0].getsockname()[1])


def _generic(handler: Any) -> Any:
    import grpc

    path, _, method = PROCESS[1:].partition("/")
    return grpc.method_handlers_generic_handler(path, {method: grpc.stream_stream_rpc_method_handler(handler)})


async def _aio(made: Picker) -> None:
    import grpc

    async def process(messages: Any, context: Any) -> None:
        answers: list[bytes] = []
        stream = Stream(made, answers.append)
        while (message := await context.read()) is not grpc.aio.EOF:
            stream.message(message)
            for answer in answers:
                await context.write(answer)
            answers.clear()
        stream.closed()

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    server.add_generic_rpc_handlers((_generic(process),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tune()
    await asyncio.to_thread(_told, port)
    await server.stop(0)


def _threads(made: Picker) -> None:
    import threading

    import grpc

    lock = threading.Lock()

    def process(messages: Any, context: Any) -> Any:
        answers: list[bytes] = []
        stream = Stream(made, answers.append)
        for message in messages:
            with lock:
                stream.message(message)
            yield from answers
            answers.clear()
        with lock:
            stream.closed()

    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", 64 << 20)])
    server.add_generic_rpc_handlers((_generic(process),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tune()
    _told(port)
    server.stop(0)


# the load


def headers(number: int) -> bytes:
    """What Envoy sends of a usual request."""
    values = {
        ":authority": "gateway.example.com",
        ":path": "/v1/chat/completions",
        ":method": "POST",
        ":scheme": "http",
        "user-agent": "OpenAI/Python 1.60.0",
        "accept": "application/json",
        "content-type": "application/json",
        "x-forwarded-proto": "http",
        "x-request-id": f"6f1c7a52-{number:08}",
        "x-tenant": "acme",
        "x-forwarded-for": "10.1.2.3",
        "accept-encoding": "gzip, deflate",
    }
    sent = [HeaderValue(key=name, raw_value=value.encode()) for name, value in values.items()]
    request = ProcessingRequest(
        request_headers=HttpHeaders(headers=HeaderMap(headers=sent)),
        protocol_config=ProtocolConfiguration(request_body_mode=ProcessingMode.BUFFERED),
    )
    request.attributes["envoy.filters.http.ext_proc"].fields["xds.cluster_name"].string_value = "chat"
    return request.SerializeToString()


def bodies(size: int) -> list[bytes]:
    """Fifty conversations about as long as `size` bytes, half of them with a beginning in common."""
    chance, found = random.Random(1), []
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(2000)]
    common = " ".join(chance.choices(words, k=size // 12))
    for number in range(50):
        own = " ".join(chance.choices(words, k=size // 12))
        first = common if number % 2 else " ".join(chance.choices(words, k=size // 12))
        messages = [{"role": "system", "content": first}, {"role": "user", "content": own}]
        body = json.dumps({"model": "llama", "messages": messages, "stream": True, "temperature": 0.7}).encode()
        found.append(ProcessingRequest(request_body=HttpBody(body=body, end_of_stream=True)).SerializeToString())
    return found


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


_BLOCK = b"\x83\x86\x04" + _text(PROCESS.encode()) + b"\x01" + _text(b"picker")
_BLOCK += b"\x00" + _text(b"te") + _text(b"trailers") + b"\x0f\x10" + _text(b"application/grpc")


class Load(asyncio.Protocol):
    """`concurrency` requests at a time: headers, body, the choice, end; then the next."""

    def __init__(self, count: int, concurrency: int, sent: list[bytes], done: asyncio.Future[None]) -> None:
        self._left, self._open, self._bodies, self._done = count, concurrency, itertools.cycle(sent), done
        self._tail, self._next, self._ended = b"", 1, 0
        self._count, self._steps = count, dict[int, int]()
        self._update = b""
        self._window, self._queue = 65_535, list[tuple[int, bytes]]()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        settings = _frame(4, 0, 0, b"\x00\x04\x7f\xff\xff\xff") + _frame(8, 0, 0, (1 << 30).to_bytes(4, "big"))
        transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        for _ in range(self._open):
            self._begin()

    def _begin(self) -> None:
        if self._left:
            self._left -= 1
            stream, self._next = self._next, self._next + 2
            self._steps[stream] = 0
            self._transport.write(_frame(1, 4, stream, self._update + _BLOCK))
            self._update = b""
            self._send(stream, headers(stream))

    def _send(self, stream: int, message: bytes) -> None:
        data = b"\x00" + len(message).to_bytes(4, "big") + message
        for start in range(0, len(data), 16_384):
            self._queue.append((stream, data[start : start + 16_384]))
        self._pump()

    def _pump(self) -> None:
        out = []
        while self._queue and len(self._queue[0][1]) <= self._window:
            stream, data = self._queue.pop(0)
            self._window -= len(data)
            out.append(_frame(0, 0, stream, data))
        if out:
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        data, place = self._tail + data, 0
        while len(data) - place >= 9:
            size = int.from_bytes(data[place : place + 3], "big")
            if len(data) - place < 9 + size:
                break
            kind, flags = data[place + 3], data[place + 4]
            stream = int.from_bytes(data[place + 5 : place + 9], "big")
            payload = data[place + 9 : place + 9 + size]
            place += 9 + size
            if kind == 0 and payload:
                self._answered(stream)
            elif kind == 1 and flags & 1:
                self._ended += 1
                self._begin()
                if self._ended == self._count:
                    self._done.set_result(None)
            elif kind == 8 and stream == 0:
                self._window += int.from_bytes(payload, "big")
                self._pump()
            elif kind == 4 and not flags & 1:
                self._transport.write(_frame(4, 1, 0, b""))
                self._update = b"\x20"  # the server wants no header table: the next block says that it is empty
            elif kind == 7:
                raise ConnectionError(f"the server gave up: {payload!r}")
            elif kind == 6 and not flags & 1:
                self._transport.write(_frame(6, 1, 0, payload))
        self._tail = data[place:]

    def _answered(self, stream: int) -> None:
        self._steps[stream] += 1
        if self._steps[stream] == 1:
            self._send(stream, next(self._bodies))
        else:
            del self._steps[stream]
            self._transport.write(_frame(0, 1, stream, b""))


async def load(port: int, count: int, concurrency: int, sent: list[bytes]) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    transport, _ = await loop.create_connection(lambda: Load(count, concurrency, sent, done), "127.0.0.1", port)
    await done
    transport.close()


class Child:
    """A picker in its own process."""

    def __init__(self, kind: str, replicas: int, adapters: int) -> None:
        command = [sys.executable, "-m", "tests.bench.picker", "--serve", kind, str(replicas), str(adapters)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout and self._process.stdin
        self._out, self._in = self._process.stdout, self._process.stdin
        self.port = int(self._out.readline())

    def used(self) -> tuple[float, float]:
        """CPU seconds so far, megabytes now."""
        self._in.write("\n")
        self._in.flush()
        cpu, memory = json.loads(self._out.readline())
        return cpu, memory

    def stop(self) -> None:
        self._in.close()
        self._process.wait(10)


def measure(child: Child, count: int, concurrency: int, sent: list[bytes]) -> tuple[float, float]:
    """CPU milliseconds of the picker per request, and requests per second seen."""
    asyncio.run(load(child.port, count // 10 + 1, concurrency, sent))
    before, began = child.used()[0], time.perf_counter()
    asyncio.run(load(child.port, count, concurrency, sent))
    seconds = time.perf_counter() - began
    return (child.used()[0] - before) * 1000 / count, count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", nargs=3, metavar=("KIND", "REPLICAS", "ADAPTERS"), help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=5000, help="of 1 KB, per row")
    parser.add_argument("--memory", type=int, default=0, help="also send so many requests of 1 KB and watch memory")
    parser.add_argument("--servers", nargs="*", default=SERVERS, choices=SERVERS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]), int(options.serve[2]))
        return
    small, large = bodies(1000), bodies(400_000)
    print(
        f"{'server':<14}{'replicas':>9}{'adapters':>9}{'prompt':>8}{'streams':>9}{'CPU ms':>9}{'1/s seen':>10}{'MB':>7}"
    )
    rows = [(8, 0, "1 KB", small, 1), (8, 0, "1 KB", small, 64), (8, 0, "400 KB", large, 16)]
    more = [(100, 0, "1 KB", small, 64), (8, 10_000, "1 KB", small, 64)]
    for kind in options.servers:
        for replicas, adapters, name, sent, streams in rows + (more if kind == "ours" else []):
            child = Child(kind, replicas, adapters)
            count = options.requests if sent is small else max(100, options.requests // 20)
            cpu, rate = measure(child, count, streams, sent)
            memory = child.used()[1]
            child.stop()
            print(f"{kind:<14}{replicas:>9}{adapters:>9}{name:>8}{streams:>9}{cpu:>9.3f}{rate:>10.0f}{memory:>7.0f}")
    if options.memory:
        watch(options.memory, small)


def watch(count: int, sent: list[bytes]) -> None:
    """Memory after each tenth of `count` requests."""
    child, found = Child("ours", 8, 0), []
    for _ in range(10):
        asyncio.run(load(child.port, count // 10, 64, sent))
        found.append(f"{child.used()[1]:.0f}")
    child.stop()
    print(f"MB after each tenth of {count} requests: {' '.join(found)}")


if __name__ == "__main__":
    main()
