"""An HTTP/1.1 client that shows what happened: what had come when an answer broke, and when each part came.

Why not httpx: it needs more CPU for a request than any of the routers, and hides where an answer ended.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httptools


@dataclass(slots=True)
class Answer:
    """What came back; `status` 0: nothing. Times are seconds of time.perf_counter."""

    sent: float = 0.0
    headed: float = 0.0
    """When its headers were complete; 0 if they never were."""
    ended: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    """Ended as HTTP says it should, not by a lost connection."""

    @property
    def seconds(self) -> float:
        return self.ended - self.sent


class Connection(asyncio.Protocol):
    """One request at a time, kept alive between them; the parser calls `on_*`."""

    def __init__(self) -> None:
        self.usable = False
        self._waiting: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.usable = cast(asyncio.Transport, transport), True

    def ask(self, *parts: bytes) -> asyncio.Future[Answer]:
        """`parts`: a request's bytes. The future never fails: a lost connection is an answer that is not whole."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._parser, self._answer = httptools.HttpResponseParser(self), Answer(sent=time.perf_counter())
        self._transport.writelines(parts)
        return self._waiting

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._answer.status, self._answer.headed = self._parser.get_status_code(), time.perf_counter()

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.whole, self.usable = True, self._parser.should_keep_alive()
        self._end()

    def _end(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._answer.ended = time.perf_counter()
            self._waiting.set_result(self._answer)


async def connect(address: str) -> Connection:
    """`address`: HOST:PORT. OSError where nobody listens."""
    host, _, port = address.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
    return connection


def head(method: str, path: str, headers: Mapping[str, str], length: int | None = None) -> bytes:
    """`length`: of the body in bytes; None: no body."""
    rows = [f"{method} {path} HTTP/1.1", "host: bench", *(f"{name}: {value}" for name, value in headers.items())]
    rows += [] if length is None else ["content-type: application/json", f"content-length: {length}"]
    return ("\r\n".join(rows) + "\r\n\r\n").encode()


def post(headers: Mapping[str, str], body: bytes, path: str = "/v1/chat/completions") -> bytes:
    return head("POST", path, headers, len(body)) + body


async def once(address: str, parts: Iterable[bytes], seconds: float = 20.0) -> Answer:
    """On a connection of its own; after so many `seconds` what has come by then."""
    started = time.perf_counter()
    try:
        connection = await connect(address)
    except OSError:
        return Answer(sent=started, ended=time.perf_counter())
    future = connection.ask(*parts)
    try:
        await asyncio.wait([future], timeout=seconds)
    finally:
        connection.close()
    return await future


async def ask_json(address: str, method: str, path: str, body: object = None) -> Any:
    """The JSON of an answer; None where there is none."""
    data = b"" if body is None else json.dumps(body).encode()
    answer = await once(address, [head(method, path, {}, len(data) if data else None), data], 5.0)
    return json.loads(answer.body) if answer.whole else None
