"""gRPC over HTTP/2: real gRPC clients, and peers that break every rule.

The frames of the second half are written by hand against a connection without a socket; the first half is the real thing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from struct import pack
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_controllers.picker import http2
from aibrix_controllers.picker.frames import PREFACE
from aibrix_controllers.picker.health import CHECK, NOT_SERVING, SERVING, WATCH, Health
from aibrix_controllers.picker.http2 import Call, Connection

ECHO, ONCE, BROKEN = "/test/Echo", "/test/Once", "/test/Broken"


class Echo:
    """Each message comes back; the end is answered with the end."""

    def __init__(self, call: Call) -> None:
        self.call, self.ends, self.seen = call, 0, list[bytes]()
        CALLS.append(self)

    def message(self, data: bytes) -> None:
        self.seen.append(data)
        self.call.send(data)

    def half_closed(self) -> None:
        self.call.finish()

    def closed(self) -> None:
        self.ends += 1


class Broken(Echo):
    def message(self, data: bytes) -> None:
        raise RuntimeError("a mistake of ours")


CALLS: list[Echo] = []
FAILED: list[str] = []


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    CALLS.clear()
    FAILED.clear()
    yield
    assert all(one.ends <= 1 for one in CALLS)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Health, asyncio.AbstractEventLoop, set[Connection]]]:
    import uvloop

    health, loop, connections = Health(), uvloop.new_event_loop(), set[Connection]()
    methods = {ECHO: Echo, BROKEN: Broken, CHECK: health.check, WATCH: health.watch}
    made = loop.run_until_complete(
        loop.create_server(lambda: Connection(methods, FAILED.append, connections), "127.0.0.1", 0)
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"127.0.0.1:{made.sockets[0].getsockname()[1]}", health, loop, connections
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    big = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
    with grpc.insecure_channel(server[0], options=big) as found:
        yield found


def test_a_stream_echoes_until_its_end(channel: grpc.Channel) -> None:
    sent = [b"", b"x", b"y" * 100_000, b"z" * 9_000_000]
    assert list(channel.stream_stream(ECHO)(iter(sent), timeout=30)) == sent
    assert CALLS[0].ends == 1


def test_many_streams_at_once(channel: grpc.Channel) -> None:
    calls = [channel.stream_stream(ECHO)(iter([b"%d" % number * 1000] * 3), timeout=30) for number in range(200)]
    for number, call in enumerate(calls):
        assert list(call) == [b"%d" % number * 1000] * 3


def test_a_client_that_cancels_is_gone(channel: grpc.Channel) -> None:
    gate = threading.Event()

    def sent() -> Iterator[bytes]:
        yield b"x"
        gate.wait(10)

    call = channel.stream_stream(ECHO)(sent())
    assert next(call) == b"x"
    call.cancel()
    gate.set()
    assert list(channel.stream_stream(ECHO)(iter([b"after"]), timeout=10)) == [b"after"]
    assert CALLS[0].ends == 1


def test_an_unknown_method(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test/Nothing")(b"x", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_mistake_in_a_handler_costs_one_call(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(BROKEN)(b"x", timeout=10)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "a mistake of ours" in FAILED[0] and CALLS[0].ends == 1
    assert list(channel.stream_stream(ECHO)(iter([b"after"]), timeout=10)) == [b"after"]


def test_compression_is_refused(server: Any) -> None:
    with grpc.insecure_channel(server[0], compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(ECHO)(b"x" * 1000, timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_health_is_checked_and_watched(server: Any, channel: grpc.Channel) -> None:
    _, health, loop, _ = server
    check, watch = channel.unary_unary(CHECK), channel.unary_stream(WATCH)(b"", timeout=10)
    assert check(b"", timeout=10) == NOT_SERVING == next(watch)
    loop.call_soon_threadsafe(health.set, True)
    assert next(watch) == SERVING == check(b"", timeout=10)
    loop.call_soon_threadsafe(health.set, False)
    assert next(watch) == NOT_SERVING
    watch.cancel()  # its frame is sent by a thread of the client, in its own time
    deadline = time.monotonic() + 5
    while health.watchers and time.monotonic() < deadline:
        check(b"", timeout=10)
    assert not health.watchers


def test_drained_connections_finish_what_they_have(server: Any) -> None:
    _, _, loop, connections = server
    with grpc.insecure_channel(server[0]) as channel:
        more = iter([b"a", b"b"])
        gate, wait = threading.Event(), threading.Event()

        def sent() -> Iterator[bytes]:
            yield next(more)
            gate.wait(10)
            yield next(more)

        call = channel.stream_stream(ECHO)(sent(), timeout=20)
        assert next(call) == b"a"
        loop.call_soon_threadsafe(lambda: ([one.drain() for one in list(connections)], wait.set()))
        wait.wait(10)
        assert list(channel.stream_stream(ECHO)(iter([b"new"]), timeout=10)) == [b"new"], "on another connection"
        gate.set()
        assert list(call) == [b"b"]


def test_closing_ends_calls_in_good_order(server: Any) -> None:
    """Envoy fails a request whose picker breaks off, where it was told to; an orderly end is none."""
    _, _, loop, connections = server
    with grpc.insecure_channel(server[0]) as channel:
        gate = threading.Event()

        def sent() -> Iterator[bytes]:
            yield b"a"
            gate.wait(10)

        call = channel.stream_stream(ECHO)(sent(), timeout=20)
        assert next(call) == b"a"
        loop.call_soon_threadsafe(lambda: [one.close() for one in list(connections)])
        assert list(call) == [] and call.code() == grpc.StatusCode.OK
        gate.set()
    assert CALLS[0].ends == 1


# frames by hand


class Wire:
    """A connection whose transport is a list."""

    def __init__(self, data: bytes = PREFACE) -> None:
        self.out, self.closed, self.pending = bytearray(), False, 0
        self.connection = Connection({ECHO: Echo}, FAILED.append, set())
        self.connection.connection_made(self)  # type: ignore[arg-type]
        self.out.clear()
        self.feed(data)

    def write(self, data: bytes) -> None:
        self.out += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return self.pending

    def feed(self, data: bytes) -> None:
        if not self.closed:
            self.connection.data_received(data)

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """(kind, flags, stream, payload) of what was written since."""
        data, found = bytes(self.out), []
        while data:
            size = int.from_bytes(data[:3], "big")
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
            data = data[9 + size :]
        self.out.clear()
        return found

    def echoed(self) -> bytes:
        """DATA payloads together."""
        return b"".join(payload for kind, _, _, payload in self.frames() if kind == 0)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


PATH = b"\x83\x86\x04" + bytes((len(ECHO),)) + ECHO.encode()


def begin(stream: int = 1) -> bytes:
    return frame(1, 4, stream, PATH)


def framed(message: bytes) -> bytes:
    return b"\0" + pack(">I", len(message)) + message


def test_bytes_may_come_one_by_one() -> None:
    data = PREFACE + begin() + frame(0, 0, 1, framed(b"hello")) + frame(0, 1, 1)
    wire = Wire(b"")
    for number in range(len(data)):
        wire.feed(data[number : number + 1])
    assert CALLS[0].seen == [b"hello"] and CALLS[0].ends == 1


@given(st.lists(st.binary(max_size=50), max_size=5), st.lists(st.integers(1, 60), min_size=1))
def test_messages_do_not_depend_on_how_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    CALLS.clear()
    wire, data, place, turn = Wire(), b"".join(map(framed, messages)), 0, 0
    wire.feed(begin())
    while place < len(data):
        size = cuts[turn % len(cuts)]
        wire.feed(frame(0, 0, 1, data[place : place + size]))
        place, turn = place + size, turn + 1
    assert CALLS[0].seen == messages
    assert wire.echoed() == data
    assert wire.connection._buffered == 0


def test_padding_and_priority_are_taken_off() -> None:
    wire = Wire()
    wire.feed(frame(1, 4 | 8 | 32, 1, b"\x02" + b"\0" * 5 + PATH + b"\0\0"))
    wire.feed(frame(0, 8, 1, b"\x03" + framed(b"x") + b"\0\0\0"))
    assert CALLS[0].seen == [b"x"]


def test_a_header_block_in_pieces() -> None:
    wire = Wire()
    wire.feed(frame(1, 0, 1, PATH[:4]) + frame(9, 0, 1, PATH[4:6]) + frame(9, 4, 1, PATH[6:]))
    wire.feed(frame(0, 0, 1, framed(b"x")))
    assert CALLS[0].seen == [b"x"]


def test_answers_wait_for_room() -> None:
    wire = Wire()
    wire.feed(frame(4, 0, 0, b"\0\4" + pack(">I", 10)) + begin() + frame(0, 0, 1, framed(b"a" * 20)))
    assert wire.echoed() == framed(b"a" * 20)[:10]
    wire.feed(frame(8, 0, 1, pack(">I", 5)))
    assert wire.echoed() == framed(b"a" * 20)[10:15]
    wire.feed(frame(0, 1, 1))
    assert [one[0] for one in wire.frames()] == [], "the end comes after all of the answer"
    wire.feed(frame(4, 0, 0, b"\0\4" + pack(">I", 19)))
    assert wire.echoed() == framed(b"a" * 20)[15:24], "19 instead of 10, and the 5 from before"
    wire.feed(frame(4, 0, 0, b"\0\4" + pack(">I", 1000)))
    kinds = [(kind, flags) for kind, flags, _, _ in wire.frames()]
    assert kinds == [(4, 1), (0, 0), (1, 5)]
    assert CALLS[0].ends == 1


@pytest.mark.parametrize("size", [100, 20_000])
def test_the_connections_window_bounds_all_streams_together(size: int) -> None:
    wire = Wire()
    wire.feed(frame(4, 0, 0, b"\0\4" + pack(">I", 1 << 30)))
    for stream in (1, 3):
        wire.feed(begin(stream))
        for _ in range(60 * 20_000 // size):
            wire.feed(frame(0, 0, stream, framed(b"a" * size)))
    assert len(wire.echoed()) == 65_535
    wire.feed(frame(8, 0, 0, pack(">I", 1 << 24)))
    assert len(wire.echoed()) == 2 * 60 * 20_000 // size * (size + 5) - 65_535


def test_received_bytes_are_given_back() -> None:
    wire = Wire()
    wire.feed(begin())
    for _ in range(40):
        wire.feed(frame(0, 0, 1, framed(b"a" * 50_000)))
    grown = [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in wire.frames() if kind == 8]
    assert sum(more for stream, more in grown if stream == 0) > 1 << 20
    assert sum(more for stream, more in grown if stream == 1) > 1 << 20


def test_pings_and_settings_are_acknowledged() -> None:
    wire = Wire()
    wire.feed(frame(6, 0, 0, b"12345678") + frame(4, 0, 0, b"") + frame(6, 1, 0, b"12345678") + frame(4, 1, 0))
    assert wire.frames() == [(6, 1, 0, b"12345678"), (4, 1, 0, b"")]


def test_after_the_end_new_calls_are_refused_and_the_peer_hangs_up() -> None:
    wire = Wire()
    wire.feed(begin())
    wire.connection.close()
    kinds = [(kind, stream) for kind, _, stream, _ in wire.frames()]
    assert kinds == [(1, 1), (7, 0)] and CALLS[0].ends == 1 and not wire.closed
    wire.feed(frame(0, 0, 1, framed(b"late")) + begin(3) + frame(0, 0, 3, framed(b"later")))
    assert wire.frames() == [(3, 0, 3, pack(">I", 7))] and len(CALLS) == 1


def test_what_comes_for_a_call_that_is_over_is_ignored() -> None:
    wire = Wire()
    wire.feed(begin() + frame(3, 0, 1, pack(">I", 8)) + frame(0, 0, 1, framed(b"late")) + frame(8, 0, 1, pack(">I", 1)))
    assert not wire.closed and CALLS[0].seen == [] and CALLS[0].ends == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(0, 0, 1, b"x"), 1),  # of a stream that never began
        (frame(0, 0, 0, b"x"), 1),
        (frame(1, 4, 2, PATH), 1),  # even streams are the server's
        (begin(3) + begin(1), 1),  # numbers only grow
        (begin() + begin(), 1),  # a second beginning that does not end
        (b"\xff\xff\xff\0\0\0\0\0\1", 6),
        (frame(1, 4, 1, b"\xff\xff\xff\xff\xff"), 9),
        (frame(1, 4, 1, b"\xbf"), 9),  # an entry of an empty table
        (frame(9, 4, 1, PATH), 1),
        (frame(1, 0, 1, PATH) + frame(6, 0, 0, b"12345678"), 1),  # nothing may come between
        (frame(1, 0, 1, PATH) + b"".join(frame(9, 0, 1, b"\0" * 60_000) for _ in range(3)), 11),
        (frame(1, 12, 1, b"\xff" + PATH), 1),  # more padding than there is
        (frame(1, 12, 1, b""), 1),
        (begin() + frame(0, 8, 1, b"\x09x"), 1),
        (frame(3, 0, 0, pack(">I", 1)), 1),
        (frame(3, 0, 5, pack(">I", 1)), 1),
        (frame(4, 0, 0, b"12345"), 6),
        (frame(4, 0, 0, b"\0\4\xff\xff\xff\xff"), 3),
        (frame(4, 0, 0, b"\0\5\0\0\0\1"), 1),
        (frame(6, 0, 0, b"1"), 6),
        (frame(8, 0, 0, b"\0\0\0\0"), 3),
        (frame(8, 0, 0, b"1"), 6),
        (frame(8, 0, 0, b"\x7f\xff\xff\xff"), 3),
        (begin() + frame(8, 0, 1, b"\x7f\xff\xff\xff"), 3),
    ],
)
def test_who_breaks_the_rules_loses_the_connection(data: bytes, code: int) -> None:
    wire = Wire()
    wire.feed(data)
    *_, last = wire.frames()
    assert last[0] == 7 and int.from_bytes(last[3][4:8], "big") == code and wire.closed
    assert [f"a peer broke HTTP/2: error {code}"] == FAILED
    wire.connection.connection_lost(None)
    assert all(one.ends == 1 for one in CALLS)


def test_who_is_no_http2_at_all_loses_it_too() -> None:
    wire = Wire(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert wire.closed


def test_a_table_must_shrink_once_it_was_asked_to() -> None:
    wire = Wire()
    wire.feed(frame(4, 1, 0) + begin())
    assert wire.closed
    wire = Wire()
    wire.feed(frame(4, 1, 0) + frame(1, 4, 1, b"\x20" + PATH) + begin(3) + begin(5))
    assert not wire.closed and len(CALLS) == 3


def test_equal_blocks_are_decoded_once_and_the_memory_of_them_is_bounded() -> None:
    wire = Wire()
    wire.feed(frame(4, 1, 0) + frame(1, 4, 1, b"\x20" + PATH))
    for number in range(1000):
        unique = b"\0\1x" + bytes((4,)) + b"%04d" % number
        wire.feed(frame(1, 4, 2 * number + 3, PATH + unique))
    assert len(CALLS) == 1001 and len(wire.connection.paths.known) <= 256


def test_a_message_that_is_too_large_is_refused_before_it_comes() -> None:
    wire = Wire()
    wire.feed(begin() + frame(0, 0, 1, b"\0" + pack(">I", http2.MESSAGE_BYTES + 1)))
    (_, flags, stream, block) = wire.frames()[-1]
    assert (flags, stream) == (5, 1) and b"grpc-status\x018" in block
    assert CALLS[0].ends == 1 and not wire.closed


def test_messages_that_never_end_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "BUFFERED_BYTES", 200_000)
    wire = Wire()
    for stream in range(1, 21, 2):
        wire.feed(begin(stream))
        for part in (b"\0" + pack(">I", 1_000_000), b"x" * 15_000, b"x" * 15_000):
            wire.feed(frame(0, 0, stream, part))
    assert wire.connection._buffered <= 200_000
    assert [one.ends for one in CALLS] == [0] * 6 + [1] * 4
    assert not wire.closed


def test_a_peer_that_does_not_read_is_cut_off() -> None:
    wire = Wire()
    wire.connection.pause_writing()
    wire.feed(frame(6, 0, 0, b"12345678"))
    assert not wire.closed
    wire.pending = http2._BACKLOG + 1
    wire.feed(frame(6, 0, 0, b"12345678"))
    assert wire.closed


kinds = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 200])
payloads = st.binary(max_size=40) | st.just(PATH) | st.binary(max_size=20).map(framed) | st.just(pack(">I", 1))
noise = st.lists(
    st.builds(frame, kinds, st.sampled_from([0, 1, 4, 5, 8, 12, 36, 44]), st.integers(0, 9), payloads)
    | st.binary(max_size=30),
    max_size=20,
)


@given(noise)
def test_any_frames_are_survived(data: list[bytes]) -> None:
    CALLS.clear()
    wire = Wire()
    for one in data:
        wire.feed(one)
    wire.connection.connection_lost(None)
    assert all(one.ends == 1 for one in CALLS)
    assert wire.connection._buffered == 0 and not wire.connection.calls
