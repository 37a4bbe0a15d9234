"""gRPC over HTTP/2 for a server whose answers are ready at once. Why it exists: asyncio's gRPC costs three times what a whole pick
does (`python -m tests.bench.picker` prints both); here a message is a call of a function, and no task is made.

It speaks what RFC 9113 and gRPC ask of a server without TLS, compression and push. A peer may send anything: it loses its stream
or its connection, never more. Each connection's header table is empty (SETTINGS_HEADER_TABLE_SIZE 0), so equal header blocks
are equal bytes and are decoded once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from aibrix_controllers.picker.frames import (
    ACK,
    CALM,
    CONTINUATION,
    DATA,
    EMPTY_TABLE,
    END_HEADERS,
    END_STREAM,
    FLOW,
    GOAWAY,
    GROW,
    HEAD,
    HEADERS,
    INTERNAL,
    MESSAGE,
    OK,
    OPENING,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL,
    REFUSED,
    RESOURCE_EXHAUSTED,
    RST,
    SETTING,
    SETTINGS,
    SIZE,
    U32,
    UNIMPLEMENTED,
    Paths,
    Wrong,
    frame,
    trailers,
)

MESSAGE_BYTES = 64 << 20
"""The largest message; a gateway bounds bodies to less."""
BUFFERED_BYTES = 512 << 20
"""Of messages that have not come whole, of all streams of a connection together."""
_FRAME = 1 << 16
_BLOCK = 1 << 16  # bytes of a header block
_WINDOW = MESSAGE_BYTES + _FRAME
_UPDATE = 1 << 20  # bytes received before more are allowed
_BACKLOG = 16 << 20  # bytes that a peer has not read
_LONG = 4096
_OK = trailers(OK)


class Handler(Protocol):
    """One call's other side. `closed` is called exactly once, whatever ends the call."""

    def message(self, data: bytes) -> None: ...
    def half_closed(self) -> None:
        """The client has said all."""

    def closed(self) -> None: ...


class Call:
    """What a handler answers with."""

    __slots__ = (
        *("connection", "ending", "handler", "have", "headed", "need", "number", "opened", "parts", "queue"),
        *("taken", "window"),
    )

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self.connection, self.number, self.window = connection, number, window
        self.handler: Handler | None = None
        self.parts: list[bytes | memoryview] = []
        self.have = self.need = self.taken = 0
        self.opened = self.headed = False
        self.ending = b""
        self.queue: deque[bytes] | None = None

    def send(self, message: bytes) -> None:
        """Nothing happens when the call is over."""
        if self.handler is not None and not self.ending:
            self.connection.answer(self, message)

    def finish(self, status: int = OK, message: str = "") -> None:
        """Ends the call; `closed` follows."""
        if self.handler is not None and not self.ending:
            self.connection.finish(self, status, message)


Methods = Mapping[str, Callable[[Call], Handler]]
"""Path of a method -> what makes a handler for a call of it."""


class Connection(asyncio.Protocol):
    """One client. `failed` hears of exceptions in handlers and of what broke the protocol; `open` holds all connections."""

    def __init__(self, methods: Methods, failed: Callable[[str], None], open_: set[Connection]) -> None:
        self._methods, self._failed, self._open = methods, failed, open_
        self.calls: dict[int, Call] = {}
        self._tail, self._wanted = bytearray(), 0
        self._greeted = self._reading = self._full = self._closing = False
        self._out: list[bytes] = []
        self._window, self._initial, self._largest = 65_535, 65_535, 16_384
        self._last = self._received = self._buffered = 0
        self._block: tuple[int, int, bytearray] | None = None
        self.paths = Paths()
        self._sized = False

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._open.add(self)
        settings = ((1, 0), (4, _WINDOW), (5, _FRAME), (6, _BLOCK))
        self._transport.write(
            frame(SETTINGS, 0, 0, b"".join([SETTING.pack(*one) for one in settings]))
            + frame(GROW, 0, 0, U32.pack((1 << 31) - 1 - 65_535))
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)
        for call in list(self.calls.values()):
            self._over(call)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def data_received(self, data: bytes) -> None:
        self._reading = True
        try:
            self._feed(data)
        except Wrong as error:
            self._failed(f"a peer broke HTTP/2: error {error.code}")
            self._out.append(frame(GOAWAY, 0, 0, U32.pack(self._last) + U32.pack(error.code)))
            self._flush()
            self._transport.close()
        finally:
            self._reading = False
        self._flush()

    def _feed(self, data: bytes) -> None:
        """All frames that are whole now; of a long one only the piece that lacked is copied."""
        place = 0
        while self._tail:
            lacking = self._wanted - len(self._tail)
            self._tail += data[place : place + lacking]
            if len(self._tail) < self._wanted:
                return
            whole, place = bytes(self._tail), place + lacking
            self._tail.clear()
            self._tail += whole[self._frames(whole, 0) :]
        used = self._frames(data, place)
        if used < len(data):
            self._tail += memoryview(data)[used:]

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
            if self._full and self._transport.get_write_buffer_size() > _BACKLOG:
                self._transport.abort()

    def drain(self) -> None:
        """New calls shall go elsewhere; those that are open go on."""
        self._out.append(frame(GOAWAY, 0, 0, U32.pack((1 << 31) - 1) + U32.pack(0)))
        self._flush()

    def close(self) -> None:
        """Ends all calls in good order. The client hangs up then: a socket that is closed on bytes that are still to come takes
        with it what was sent last."""
        self._closing = True
        for call in list(self.calls.values()):
            call.finish()
        self._out.append(frame(GOAWAY, 0, 0, U32.pack(self._last) + U32.pack(0)))
        self._flush()

    def abort(self) -> None:
        self._transport.abort()

    # frames

    def _frames(self, data: bytes, place: int) -> int:
        """Handles the whole frames in `data` from `place` on; where they end."""
        end = len(data)
        if not self._greeted:
            if end < len(PREFACE):
                self._wanted = len(PREFACE)
                return place
            if not data.startswith(PREFACE):
                raise Wrong(PROTOCOL)
            self._greeted, place = True, len(PREFACE)
        while end - place >= 9:
            high, low, kind, flags, number = HEAD.unpack_from(data, place)
            size = high << 8 | low
            if size > _FRAME:
                raise Wrong(SIZE)
            start = place + 9
            if end - start < size:
                self._wanted = 9 + size
                return place
            place = start + size
            if self._block is not None and kind != CONTINUATION:
                raise Wrong(PROTOCOL)
            if kind == DATA:
                # a long piece is copied once, when its message is whole
                payload = data[start:place] if size < _LONG else memoryview(data)[start:place]
                self._data(number, flags, payload)
            elif kind == HEADERS:
                self._headers(number, flags, data[start:place])
            else:
                self._control(kind, flags, number & 0x7FFFFFFF, data[start:place])
        self._wanted = 9
        return place

    def _control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == GROW:
            self._grown(number, payload)
        elif kind == RST:
            if len(payload) != 4 or number == 0 or number > self._last:
                raise Wrong(PROTOCOL)
            if call := self.calls.get(number):
                self._over(call)
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == PING:
            if len(payload) != 8:
                raise Wrong(SIZE)
            if not flags & ACK:
                self._out.append(frame(PING, ACK, 0, payload))
        elif kind == CONTINUATION:
            if self._block is None or self._block[0] != number:
                raise Wrong(PROTOCOL)
            self._block[2].extend(payload)
            if len(self._block[2]) > _BLOCK:
                raise Wrong(CALM)
            if flags & END_HEADERS:
                (_, first, block), self._block = self._block, None
                self._begin(number, first, bytes(block))

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self.paths.agreed()
            return
        if len(payload) % 6:
            raise Wrong(SIZE)
        for name, value in SETTING.iter_unpack(payload):
            if name == 4:
                if value > 0x7FFFFFFF:
                    raise Wrong(FLOW)
                for call in self.calls.values():
                    call.window += value - self._initial
                self._initial = value
            elif name == 5:
                if not 16_384 <= value < 1 << 24:
                    raise Wrong(PROTOCOL)
                self._largest = min(value, _FRAME)
        self._out.append(frame(SETTINGS, ACK, 0))
        self._pump_all()

    def _grown(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Wrong(SIZE)
        more = U32.unpack(payload)[0] & 0x7FFFFFFF
        if number == 0:
            self._window += more
            if not more or self._window > 0x7FFFFFFF:
                raise Wrong(FLOW)
            self._pump_all()
        elif call := self.calls.get(number):
            call.window += more
            if call.window > 0x7FFFFFFF:
                raise Wrong(FLOW)
            if call.queue:
                self._pump(call)

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        start, end = 0, len(payload)
        if flags & (PADDED | PRIORITY):
            if flags & PADDED:
                start, end = 1, end - payload[0] if payload else -1
            start += 5 if flags & PRIORITY else 0
            if start > end:
                raise Wrong(PROTOCOL)
            payload = payload[start:end]
        if flags & END_HEADERS:
            self._begin(number, flags, payload)
        else:
            self._block = (number, flags, bytearray(payload))

    def _begin(self, number: int, flags: int, block: bytes) -> None:
        path = self.paths.read(block)
        if call := self.calls.get(number):  # trailers, which a gRPC client does not send
            if not flags & END_STREAM:
                raise Wrong(PROTOCOL)
            self._half_closed(call)
            return
        if not number & 1 or number <= self._last:
            raise Wrong(PROTOCOL)
        self._last = number
        if self._closing:
            self._out.append(frame(RST, 0, number, U32.pack(REFUSED)))
            return
        call = self.calls[number] = Call(self, number, self._initial)
        if (make := self._methods.get(path)) is None:
            call.ending, call.handler = trailers(UNIMPLEMENTED, "no such method"), None
            self._pump(call)
            return
        call.handler = make(call)
        if flags & END_STREAM:
            self._half_closed(call)

    def _data(self, number: int, flags: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._received += size
        if self._received >= _UPDATE:
            self._out.append(frame(GROW, 0, 0, U32.pack(self._received)))
            self._received = 0
        call = self.calls.get(number)
        if call is None:
            if number > self._last or not number:
                raise Wrong(PROTOCOL)
            return  # it was still on its way when the call ended
        call.taken += size
        if call.taken >= _UPDATE:
            self._out.append(frame(GROW, 0, number, U32.pack(call.taken)))
            call.taken = 0
        if flags & PADDED:
            if not payload or payload[0] >= size:
                raise Wrong(PROTOCOL)
            payload = payload[1 : size - payload[0]]
        if payload:
            self._messages(call, payload)
        if flags & END_STREAM and number in self.calls:
            self._half_closed(call)

    def _messages(self, call: Call, payload: bytes | memoryview) -> None:
        """Cuts the stream of bytes into messages."""
        if call.parts:
            call.parts.append(payload)
            call.have += len(payload)
            self._buffered += len(payload)
            if call.have < call.need:
                if self._buffered > BUFFERED_BYTES:
                    self._failed("too many bytes wait for the rest of their messages")
                    call.finish(RESOURCE_EXHAUSTED, "too many messages at once")
                return
            payload, need, headed = b"".join(call.parts), call.need, call.headed
            self._forget(call)
            if headed:
                if not self._deliver(call, payload[:need]):  # no copy where it is all
                    return
                payload = payload[need:]
        while (size := len(payload)) >= 5:
            compressed, length = MESSAGE.unpack_from(payload)
            if compressed or length > MESSAGE_BYTES:
                call.finish(UNIMPLEMENTED if compressed else RESOURCE_EXHAUSTED, "compressed or too large")
                return
            if size < 5 + length:
                break
            if not self._deliver(call, bytes(payload[5 : 5 + length])):
                return
            payload = payload[5 + length :]
        if payload:
            call.headed = len(payload) >= 5
            call.need = MESSAGE.unpack_from(payload)[1] if call.headed else 5
            call.parts = [payload[5:] if call.headed else payload]
            call.have = len(call.parts[0])
            self._buffered += call.have

    def _deliver(self, call: Call, message: bytes) -> bool:
        """Whether the call goes on."""
        assert call.handler is not None
        try:
            call.handler.message(message)
        except Exception as error:
            self._failed(f"a message was not handled: {error!r}")
            call.finish(INTERNAL, "not handled")
        return call.handler is not None and not call.ending

    # answers

    def answer(self, call: Call, message: bytes) -> None:
        data = MESSAGE.pack(0, len(message)) + message
        size = len(data)
        if call.queue or size > call.window or size > self._window or size > self._largest:
            call.queue = call.queue or deque()
            call.queue.append(data)
            self._open_answer(call)
            self._pump(call)
        else:
            self._open_answer(call)
            call.window -= size
            self._window -= size
            self._out.append(frame(DATA, 0, call.number, data))
        if not self._reading:
            self._flush()

    def finish(self, call: Call, status: int, message: str) -> None:
        call.ending = _OK if status == OK and not message else trailers(status, message)
        self._pump(call)
        if not self._reading:
            self._flush()

    def _open_answer(self, call: Call) -> None:
        if not call.opened:
            call.opened = True
            self._out.append(frame(HEADERS, END_HEADERS, call.number, self._first() + OPENING))

    def _first(self) -> bytes:
        """Our first header block says that its table is empty."""
        if self._sized:
            return b""
        self._sized = True
        return EMPTY_TABLE

    def _pump_all(self) -> None:
        for call in list(self.calls.values()):
            if call.queue:
                self._pump(call)

    def _pump(self, call: Call) -> None:
        """Sends what the windows allow, and the end after all of it."""
        while call.queue:
            size = min(len(call.queue[0]), call.window, self._window, self._largest)
            if size <= 0:
                return
            data = call.queue.popleft()
            if size < len(data):
                call.queue.appendleft(data[size:])
                data = data[:size]
            call.window -= size
            self._window -= size
            self._out.append(frame(DATA, 0, call.number, data))
        if call.ending:
            block = self._first() + (call.ending if call.opened else OPENING + call.ending)
            self._out.append(frame(HEADERS, END_HEADERS | END_STREAM, call.number, block))
            self._over(call)

    # ends

    def _half_closed(self, call: Call) -> None:
        if call.handler is not None:
            try:
                call.handler.half_closed()
            except Exception as error:
                self._failed(f"the end of a call was not handled: {error!r}")
                call.finish(INTERNAL, "not handled")

    def _forget(self, call: Call) -> None:
        self._buffered -= call.have
        call.parts, call.have, call.need = [], 0, 0

    def _over(self, call: Call) -> None:
        """The one place where a call ends."""
        self.calls.pop(call.number, None)
        self._forget(call)
        call.queue = None
        handler, call.handler = call.handler, None
        if handler is not None:
            try:
                handler.closed()
            except Exception as error:
                self._failed(f"the end of a call was not handled: {error!r}")
