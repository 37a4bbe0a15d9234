"""GET over one kept connection, for engines and for the Kubernetes API.

Why it exists: a picker asks a hundred engines a second and follows a few watches. That needs no pool, no redirection and no
compression, and a general client that has them costs more CPU (`python -m tests.bench.scrape`) and would be the picker's
largest dependency. Every answer is bounded.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from ssl import SSLContext
from typing import NamedTuple, cast

import httptools

_AHEAD = 1 << 20
"""Bytes of an answer that are read before somebody takes them."""
_NONE: Mapping[str, str] = {}
_KEPT_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),  # seconds; then every 5, and three without an answer end it
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class Answer(NamedTuple):
    status: int
    body: bytes


class Unreachable(Exception):
    """There is no answer, or one that breaks off or is not HTTP. `refused`: nobody listens there, or there is no such place."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class TooLarge(Exception):
    """An answer above its bound."""


class Connection:
    """One request at a time; opened when it is needed. It knows no time: who waits no longer cancels, which closes it."""

    __slots__ = ("_address", "_tls", "_wire")

    def __init__(self, host: str, port: int, tls: Callable[[], SSLContext] | None = None) -> None:
        self._address, self._tls = (host, port), tls
        self._wire: _Wire | None = None

    async def get(self, path: str, limit: int, headers: Mapping[str, str] = _NONE) -> Answer:
        """The whole answer; `limit` bounds its body, bytes. Unreachable, TooLarge."""
        if self._wire is not None:
            try:
                return await self._get(path, limit, headers)
            except Unreachable:  # the server may have closed a connection that was idle
                pass
        return await self._get(path, limit, headers)

    async def _get(self, path: str, limit: int, headers: Mapping[str, str]) -> Answer:
        body, size = [], 0
        async with aclosing(self._parts(path, headers)) as parts:
            async for part in parts:
                size += len(part.body)
                if size > limit:
                    raise TooLarge(f"the answer is above {limit} bytes")
                body.append(part.body)
        return Answer(part.status, b"".join(body))

    async def lines(self, path: str, limit: int, headers: Mapping[str, str] = _NONE) -> AsyncGenerator[Answer, None]:
        """An answer line by line, as they come; `limit` bounds each of them, bytes. Unreachable, TooLarge."""
        status, rest = 0, b""
        async with aclosing(self._parts(path, headers)) as parts:
            async for status, part in parts:
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    yield Answer(status, line)
                if len(rest) > limit:
                    raise TooLarge(f"a line is above {limit} bytes")
        if rest:
            yield Answer(status, rest)

    async def _parts(self, path: str, headers: Mapping[str, str]) -> AsyncGenerator[Answer, None]:
        """The body as it comes, at last an empty part. The connection is kept only after the answer's regular end."""
        wire, self._wire = self._wire, None
        host, port = self._address
        try:
            if wire is None or wire.why:
                loop, tls = asyncio.get_running_loop(), self._tls() if self._tls else None
                _, wire = await loop.create_connection(_Wire, host, port, ssl=tls)
            named = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            shown = f"[{host}]" if ":" in host else host
            wire.ask(f"GET {path} HTTP/1.1\r\nhost: {shown}:{port}\r\n{named}\r\n".encode())
            while (parts := await wire.read()) is not None:
                for part in parts:
                    yield Answer(wire.status, part)
            yield Answer(wire.status, b"")
            if wire.keep:
                self._wire, wire = wire, None
        except ConnectionRefusedError as error:
            raise Unreachable("connection refused", refused=True) from error
        except OSError as error:
            nowhere = error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)  # the address of a pod that is gone
            raise Unreachable(str(error) or type(error).__name__, refused=nowhere) from error
        finally:
            if wire is not None:
                wire.close()

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


class _Wire(asyncio.Protocol):
    """An open connection and what came of the present answer. A protocol and not a stream: a stream copies a page twice."""

    def __init__(self) -> None:
        self.status, self.keep = 0, False
        self._parser = httptools.HttpResponseParser(self)
        self._ended = True
        self.why = ""
        """Of its end; empty while it is open."""
        self._body: list[bytes] = []
        self._waiting: asyncio.Future[None] | None = None

    def ask(self, request: bytes) -> None:
        self.status, self.keep, self._ended = 0, False, False
        self._transport.write(request)

    async def read(self) -> list[bytes] | None:
        """More of the body; None at its end. Unreachable."""
        while not self._body:
            if self._ended:
                return None
            if self.why:
                raise Unreachable(self.why)
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        body, self._body = self._body, []
        if not self._transport.is_reading():
            self._transport.resume_reading()
        return body

    def close(self) -> None:
        self._ended = True
        self._transport.abort()
        del self._parser  # it calls this object: the two would wait for the collector

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        wire = transport.get_extra_info("socket")  # a watch may be silent for minutes, and nobody between may forget it
        for level, option, value in _KEPT_ALIVE:
            wire.setsockopt(level, option, value)

    def data_received(self, data: bytes) -> None:
        if self._ended:  # more than was asked for
            self._fail("it speaks unasked")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"this is not HTTP: {error}")
        if sum(map(len, self._body)) > _AHEAD and self._transport.is_reading():
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(str(error) if error else "the connection was closed before the answer's end")

    def _fail(self, why: str) -> None:
        self.why = self.why or why
        self.keep = False
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # what the parser calls; nothing after the answer's end counts

    def on_headers_complete(self) -> None:
        if not self._ended:
            self.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        if not self._ended:
            self._body.append(part)

    def on_message_complete(self) -> None:
        self.keep = not self._ended and self._parser.should_keep_alive()
        self._ended = True
