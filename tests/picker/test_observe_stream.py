"""A replica's own word: a server of the test's that speaks the sidecar's stream, and stops, lies and stutters on demand. What the
real sidecar says is in tests/gateway/test_adapters.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from observed import Engine, Notes, configured, fleet, running, until

from aibrix_controllers.picker.observe import Replica, scrape, stream
from aibrix_controllers.picker.state import State

LINE: dict[str, Any] = {"engine": "ready", "draining": False, "running": 2, "waiting": 1, "kv_used": 0.5}
LINE |= {"kv_tokens": 1000, "source": "plugin"}


def named(*adapters: str) -> dict[str, Any]:
    return {"adapters": [{"name": one, "digest": "", "rank": 8, "uri": ""} for one in adapters]}


class Sidecar:
    """`say` sends a line to who listens; `asked` are the requests' heads."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.port = status, 0
        self.asked: list[str] = []
        self.open: list[asyncio.StreamWriter] = []

    async def say(self, **more: Any) -> None:
        await self.write(orjson.dumps(LINE | more) + b"\n")

    async def write(self, data: bytes) -> None:
        for writer in self.open:
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()

    def hang_up(self) -> None:
        for writer in self.open:
            writer.transport.abort()
        self.open.clear()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Sidecar]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.IncompleteReadError):
                self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
                if self.status != 200:
                    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 4\r\n\r\nwhy\n" % self.status)
                    return writer.close()
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                self.open.append(writer)
                await self.say(**named("first"))
            return None

        server = await asyncio.start_server(serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.hang_up()


Scene = Callable[[Sidecar, Engine, State, Any], Awaitable[None]]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "PERIOD_S", 0.1)
    monkeypatch.setattr(stream, "SILENT_S", 0.5)


def play(scene: Scene, token: Path | None = None, status: int = 200) -> Notes:
    """With one replica, whose engine answers too."""
    kept: list[Notes] = []

    async def run() -> None:
        async with Sidecar(status).listening() as sidecar, Engine().listening() as engine:
            config = configured(
                adapters={"everywhere": [], "placed": ["first", "second"]}, runtime={"port": sidecar.port}
            )
            seen, state, notes = fleet(config)
            kept.append(notes)
            seen.replace("chat", {engine.address: Replica("l4", ready=True)})
            one = state.fleets["chat"].replicas[engine.address]
            async with running(scrape.follow(lambda: config, seen, lambda: 0.0, token)):
                await scene(sidecar, engine, state, one)

    asyncio.run(run())
    return kept[0]


def test_lines_become_reports_and_adapters(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")

    async def scene(sidecar: Sidecar, engine: Engine, state: State, one: Any) -> None:
        await until(lambda: one.models == {"base", "first"})
        assert one.endpoint.kv_used == 500 and one.source == "stream"
        await sidecar.say(**named("second"))
        await until(lambda: one.models == {"base", "second"})
        await sidecar.say(running=7)
        await until(lambda: one.endpoint.reported_us and one.models == {"base", "second"})
        assert engine.asked == [], "nobody asks the engine while its sidecar speaks"
        assert "GET /v1/load?watch=1 " in sidecar.asked[0]
        assert "authorization: bearer t0ken" in sidecar.asked[0].lower()

    assert not play(scene, tmp_path / "token")


def test_draining_hung_and_dead_engines_are_left_at_once() -> None:
    async def scene(sidecar: Sidecar, engine: Engine, state: State, one: Any) -> None:
        await until(lambda: one.models)
        await sidecar.say(draining=True)
        await until(lambda: one.leaving)
        await sidecar.say(engine="hung")
        await until(lambda: one.hung and not one.gone and not one.leaving)
        await sidecar.say(engine="gone")
        await until(lambda: one.gone)
        await sidecar.say(source="none")
        await until(lambda: one.blind and not one.hung)
        await sidecar.say()
        await until(lambda: not (one.hung or one.blind))

    play(scene)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\n\n{\n",
        b"[]\n",
        b"{}\n",
        b'{"engine": "ready"}\n',
        b"x" * 5_000_000,
        b'{"adapters": 3, "engine": "ready", "draining": false}\n',
    ],
)
def test_a_stream_that_is_none_is_said_and_the_engine_is_asked(nonsense: bytes) -> None:
    async def scene(sidecar: Sidecar, engine: Engine, state: State, one: Any) -> None:
        await until(lambda: one.models)
        with suppress(OSError):
            await sidecar.write(nonsense)
        await until(lambda: "/metrics" in engine.asked)
        await until(lambda: len(sidecar.asked) > 1)  # and again

    notes = play(scene)
    assert notes.count("stream_away") >= 1


def test_silence_is_no_news_that_may_be_trusted() -> None:
    async def scene(sidecar: Sidecar, engine: Engine, state: State, one: Any) -> None:
        await until(lambda: "/metrics" in engine.asked, 3)
        assert one.source == "page" or len(sidecar.asked) > 1

    assert play(scene).count("stream_away") == 1


def test_a_sidecar_that_refuses_is_said_with_its_words() -> None:
    async def scene(sidecar: Sidecar, engine: Engine, state: State, one: Any) -> None:
        await until(lambda: "/metrics" in engine.asked)
        await until(lambda: one.endpoint.reported_us >= 0)

    ((event, fields),) = [one for one in play(scene, status=403) if one[0] == "stream_away"]
    assert event == "stream_away" and fields["why"] == "the sidecar answers 403 why"


def test_a_sidecar_that_restarts_is_heard_again() -> None:
    async def scene(sidecar: Sidecar, engine: Engine, state: State, one: Any) -> None:
        await until(lambda: one.models)
        sidecar.hang_up()
        await until(lambda: len(sidecar.asked) > 1)
        await until(lambda: one.source == "stream")

    notes = play(scene)
    assert notes.count("stream_away") == notes.count("stream_back") == 1
