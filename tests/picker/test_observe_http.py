"""The client: whatever a server sends, there is an answer within its bound or one of two exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import Engine, answer

from aibrix_controllers.picker.observe.http import Answer, Connection, TooLarge, Unreachable

T = TypeVar("T")
LIMIT = 1000
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\nb\r\n\nsecond\nthi\r\n2\r\nrd\r\n0\r\n\r\n"
)


async def asked(engine: Engine, work: Callable[[Connection], Awaitable[T]]) -> T:
    async with engine.listening():
        host, port = engine.address.split(":")
        connection = Connection(host, int(port))
        try:
            return await asyncio.wait_for(work(connection), 5)
        finally:
            connection.close()


def get(raw: bytes, limit: int = LIMIT) -> Answer:
    return asyncio.run(asked(Engine(page=raw), lambda connection: connection.get("/page", limit)))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (answer(b"text"), Answer(200, b"text")),
        (answer(b"", 503), Answer(503, b"")),
        (answer(b"gone", 404), Answer(404, b"gone")),
        (CHUNKED, Answer(200, b"first\nsecond\nthird")),
        (answer(b"x" * LIMIT), Answer(200, b"x" * LIMIT)),
    ],
)
def test_answers(raw: bytes, found: Answer) -> None:
    assert get(raw) == found


def test_an_answer_above_its_bound() -> None:
    with pytest.raises(TooLarge, match="above 999 bytes"):
        get(answer(b"x" * LIMIT), LIMIT - 1)


def test_what_is_not_http() -> None:
    with pytest.raises(Unreachable, match="not HTTP"):
        get(b"220 mail.example.org ESMTP\r\n")


def test_nobody_listens() -> None:
    engine = Engine()

    async def scene() -> None:
        async with engine.listening():
            pass
        host, port = engine.address.split(":")
        with pytest.raises(Unreachable) as caught:
            await Connection(host, int(port)).get("/", LIMIT)
        assert caught.value.refused

    asyncio.run(scene())


@pytest.mark.parametrize("raw", [answer(b"text"), CHUNKED], ids=["length", "chunks"])
def test_an_answer_that_breaks_off_is_none(raw: bytes) -> None:
    """Wherever it does."""

    async def scene() -> None:
        for length in range(len(raw)):

            async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int = length) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(raw[:length])
                writer.close()

            server = await asyncio.start_server(cut, "127.0.0.1", 0)
            connection = Connection("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(Unreachable, match="before the answer's end"):
                await connection.get("/", LIMIT)
            server.close()

    asyncio.run(scene())


def test_the_connection_is_kept() -> None:
    engine = Engine(page=CHUNKED)

    async def thrice(connection: Connection) -> None:
        for _ in range(3):
            assert (await connection.get("/page", LIMIT)).body == b"first\nsecond\nthird"

    asyncio.run(asked(engine, thrice))
    assert (engine.opened, len(engine.asked)) == (1, 3)


@pytest.mark.parametrize("late", [False, True], ids=["said", "unsaid"])
def test_a_kept_connection_that_the_server_closed_is_opened_again(late: bool) -> None:
    """`unsaid`: it is closed only when the next request has come."""
    opened: list[int] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"text"))
        if late:
            await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(once, "127.0.0.1", 0)
        connection = Connection("127.0.0.1", server.sockets[0].getsockname()[1])
        for _ in range(2):
            assert await connection.get("/", LIMIT) == Answer(200, b"text")
            await asyncio.sleep(0.05)
        connection.close()
        server.close()

    asyncio.run(scene())
    assert len(opened) == 2


def test_a_second_answer_that_nobody_asked_for_is_never_taken_for_the_next_one() -> None:
    engine = Engine(page=answer(b"mine") + answer(b"smuggled"), other=answer(b"other"))

    async def both(connection: Connection) -> list[bytes]:
        return [(await connection.get(path, LIMIT)).body for path in ("/page", "/other")]

    assert asyncio.run(asked(engine, both)) == [b"mine", b"other"]
    assert engine.opened == 2


def test_lines_come_as_they_are_sent_and_are_bounded() -> None:
    async def lines(connection: Connection, limit: int) -> list[Answer]:
        return [one async for one in connection.lines("/page", limit)]

    found = asyncio.run(asked(Engine(page=CHUNKED), lambda connection: lines(connection, LIMIT)))
    assert found == [Answer(200, b"first"), Answer(200, b"second"), Answer(200, b"third")]
    with pytest.raises(TooLarge):
        asyncio.run(asked(Engine(page=answer(b"x" * 50)), lambda connection: lines(connection, 40)))


def test_a_long_answer_is_not_read_faster_than_it_is_taken() -> None:
    """What waits is bounded: the server's own buffer fills instead."""
    total = 64 << 20

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for _ in range(total >> 20):
            writer.write(b"x\n" * (1 << 19))
            await writer.drain()
            sent.append(1 << 20)
        writer.close()

    sent: list[int] = []

    async def scene() -> None:
        server = await asyncio.start_server(flood, "127.0.0.1", 0)
        connection = Connection("127.0.0.1", server.sockets[0].getsockname()[1])
        lines = connection.lines("/", 10)
        await anext(lines)
        await asyncio.sleep(0.3)
        assert sum(sent) < total / 2
        await lines.aclose()
        server.close()

    asyncio.run(scene())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\r\n", CHUNKED]), max_size=6))
def test_any_bytes(parts: list[bytes]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        connection = Connection("127.0.0.1", server.sockets[0].getsockname()[1])
        try:
            found = await asyncio.wait_for(connection.get("/", LIMIT), 5)
            assert 100 <= found.status <= 999
        except (Unreachable, TooLarge):
            pass
        connection.close()
        server.close()

    asyncio.run(scene())
