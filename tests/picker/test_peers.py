"""Pickers that tell each other what they do: over real sockets, with one that is gone, frozen, slow or speaks nonsense."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from observed import Notes, clock, configured, running, until

from aibrix_controllers.picker import peers
from aibrix_controllers.picker.peers import Address, Garbage, Peers, apply, encoded, instance
from aibrix_controllers.picker.state import Ended, Event, Learnt, Sent, Spent, State, Ticket

REPLICA = "10.0.0.1:8000"
HELLO = b'{"aibrix-picker":1,"id":"other"}\n'


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "RESOLVE_S", 0.05)
    monkeypatch.setattr(peers, "AGAIN_S", 0.02)
    monkeypatch.setattr(peers, "AGAIN_MOST_S", 0.2)


class Picker:
    def __init__(self, name: str) -> None:
        self.state, self.notes = State(configured(), clock(), sharing=True), Notes()
        self.state.replica("chat", REPLICA, "", ready=True, draining=False, incarnation="", now=clock())
        self.peers = Peers(self.state, name, clock, self.notes)
        self.socket = bound()
        self.address: Address = self.socket.getsockname()

    def send(self, tokens: int = 100, blocks: Iterable[int] = ()) -> Ticket:
        fleet = self.state.fleets["chat"]
        event = Sent("chat", REPLICA, tokens, "", list(blocks))
        return self.state.sent(fleet, fleet.replicas[REPLICA], tokens, 0, event, clock())

    @property
    def in_flight(self) -> int:
        return self.state.fleets["chat"].replicas[REPLICA].endpoint.in_flight

    @property
    def known_blocks(self) -> int:
        fleet = self.state.fleets["chat"]
        return fleet.index.held(fleet.replicas[REPLICA].number)

    @asynccontextmanager
    async def exchanging(self, *others: Address) -> AsyncIterator[Picker]:
        """With a name that has these addresses, and this picker's own as a name of all pickers has."""

        async def find() -> list[Address]:
            return [self.address, *others]

        async with running(self.peers.run(self.socket, find)):
            yield self


def bound(port: int = 0) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", port))
    one.listen()
    return one


def test_what_one_does_the_other_knows() -> None:
    async def scene() -> None:
        a, b = Picker("a"), Picker("b")
        before = a.send(blocks=[1])  # in flight when they meet
        a.state.ended(a.send())  # and one that is over
        async with a.exchanging(b.address), b.exchanging(a.address):
            await until(lambda: a.peers.connected and b.peers.connected)
            await until(lambda: b.in_flight == 1)
            first, second = a.send(blocks=[2**64 - 1, 5]), b.send()
            await until(lambda: (a.in_flight, b.in_flight) == (3, 3))
            await until(lambda: b.known_blocks == 2)
            a.state.ended(first)
            a.state.ended(before)
            b.state.ended(second)
            await until(lambda: (a.in_flight, b.in_flight) == (0, 0))
            assert not a.state.peers.get("a") and not b.state.peers.get("b")  # nothing came back to its sender
        assert not a.notes.count("peer_garbage") and not b.notes.count("peer_garbage")

    asyncio.run(scene())


def test_three_pickers_tell_each_two_others() -> None:
    async def scene() -> None:
        a, b, c = trio = [Picker(name) for name in "abc"]
        others = {one: [other.address for other in trio if other is not one] for one in trio}
        async with a.exchanging(*others[a]), b.exchanging(*others[b]), c.exchanging(*others[c]):
            await until(lambda: all(len(one.peers.connected) == 2 for one in trio))
            for one in trio:
                one.send()
            await until(lambda: [one.in_flight for one in trio] == [3, 3, 3])
            await asyncio.sleep(0.1)
            assert [one.in_flight for one in trio] == [3, 3, 3]  # nobody passes on what it heard

    asyncio.run(scene())


def test_a_picker_finds_itself_once(monkeypatch: pytest.MonkeyPatch) -> None:
    greeted: list[bytes] = []
    monkeypatch.setattr(peers, "instance", lambda line: greeted.append(line) or instance(line))

    async def scene() -> None:
        a = Picker("a")
        async with a.exchanging():
            await until(lambda: greeted)
            await asyncio.sleep(0.3)
            assert len(greeted) == 1 and not a.peers.connected and not a.notes

    asyncio.run(scene())


def test_a_peer_that_goes_is_forgotten_and_one_that_comes_back_starts_anew() -> None:
    async def scene() -> None:
        a, b = Picker("a"), Picker("b")
        async with a.exchanging(b.address):
            async with b.exchanging():
                await until(lambda: a.peers.connected)
                for _ in range(3):
                    b.send(blocks=[7])
                await until(lambda: a.in_flight == 3)
            await until(lambda: a.in_flight == 0)
            assert a.known_blocks == 1  # the engine has that prefix all the same
            again = Picker("b2")
            again.socket.close()
            again.socket = bound(b.address[1])
            again.send()
            async with again.exchanging():
                await until(lambda: a.in_flight == 1)
                assert list(a.peers.connected) == ["b2"]
        events = [event for event, _ in a.notes if event != "peer_away"]
        assert events == ["peer_joined", "peer_lost", "peer_joined", "peer_lost"]

    asyncio.run(scene())


def test_a_name_without_answer_keeps_the_peers() -> None:
    async def scene() -> None:
        a, b = Picker("a"), Picker("b")
        answers: list[list[Address] | OSError] = [[b.address]]

        async def find() -> list[Address]:
            if isinstance(answers[-1], OSError):
                raise answers[-1]
            return answers[-1]

        async with b.exchanging(), running(a.peers.run(a.socket, find)):
            await until(lambda: a.peers.connected)
            answers.append(OSError("no DNS"))
            await until(lambda: a.notes.count("peer_names_failed"))
            answers.append([])  # it is shutting down, and still has requests
            await asyncio.sleep(0.15)
            b.send()
            await until(lambda: a.in_flight == 1)
            assert a.notes.count("peer_names_failed") == 1

    asyncio.run(scene())


@asynccontextmanager
async def speaking(*lines: bytes, wait: float = 100) -> AsyncIterator[Address]:
    """Somebody at a picker's address who says these lines to whoever connects, then waits, then hangs up."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            writer.writelines(lines)
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        for task in tasks:
            if task:
                task.cancel()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "a line is no JSON"),
        ((b"{}\n",), "its first line is no greeting"),
        ((b'{"aibrix-picker":1,"id":""}\n',), "its first line is no greeting"),
        ((b'{"aibrix-picker":2,"id":"other"}\n',), "it speaks version 2 and not 1"),
        ((HELLO, b"{}\n"), "a line is no list of events"),
        ((HELLO, b'[["s","chat","10.0.0.1:8000",1,"",[]],["x"]]\n'), "this is no event: ['x']"),
        ((HELLO, b'[["s","chat","10.0.0.1:8000",1,"",["x"]]]\n'), "this is no event: ['s', 'chat'"),
        ((HELLO, b"x" * (peers.LINE_BYTES + 2)), f"a line is above {peers.LINE_BYTES} bytes"),
    ],
)
def test_nonsense_is_counted_said_once_and_hurts_nobody(lines: tuple[bytes, ...], why: str) -> None:
    async def scene() -> None:
        a, b = Picker("a"), Picker("b")
        async with speaking(*lines) as bad, b.exchanging(), a.exchanging(bad, b.address):
            await until(lambda: a.notes.count("peer_garbage"))
            b.send()
            await until(lambda: a.in_flight == 1)
            await asyncio.sleep(0.3)
            told = [fields["why"] for event, fields in a.notes if event == "peer_garbage"]
            assert len(told) == 1 and str(told[0]).startswith(why)
            # it comes again and again, and is heard until its line has grown too long
            await until(lambda: "other" not in a.peers.connected and "other" not in a.state.peers)

    asyncio.run(scene())


def test_a_frozen_peer_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SILENCE_S", 0.2)

    async def scene() -> None:
        a = Picker("a")
        async with speaking(HELLO, b'[["s","chat","10.0.0.1:8000",1,"",[]]]\n') as frozen, a.exchanging(frozen):
            await until(lambda: a.in_flight == 1)
            await until(lambda: a.in_flight == 0)
            assert ("peer_away", {"address": peers.shown(frozen), "why": "nothing for 0.2 s"}) in a.notes

    asyncio.run(scene())


def test_an_idle_peer_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SILENCE_S", 0.4)
    monkeypatch.setattr(peers, "ALIVE_S", 0.1)

    async def scene() -> None:
        a, b = Picker("a"), Picker("b")
        async with b.exchanging(), a.exchanging(b.address):
            await until(lambda: a.peers.connected)
            await asyncio.sleep(0.8)
            assert [event for event, _ in a.notes] == ["peer_joined"]

    asyncio.run(scene())


def test_a_slow_peer_is_cut_off_and_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "BUFFER_BYTES", 1 << 20)

    async def scene() -> None:
        a = Picker("a")
        async with a.exchanging():
            reader, writer = await asyncio.open_connection(*a.address)
            assert await reader.readline() == b'{"aibrix-picker":1,"id":"a"}\n'
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(200):
                a.state.ended(a.send(blocks=range(2**63, 2**63 + 4000)))
                await asyncio.sleep(0.02)
                if a.notes.count("peer_slow"):
                    break
            assert a.notes.count("peer_slow") == 1
            assert not a.state.outbox or len(a.state.outbox) < 10
            writer.close()

    asyncio.run(scene())


def test_who_listens_must_not_speak() -> None:
    async def scene() -> None:
        a = Picker("a")
        async with a.exchanging():
            reader, writer = await asyncio.open_connection(*a.address)
            await reader.readline()
            writer.write(b'[["s","chat","10.0.0.1:8000",1,"",[]]]\n')
            assert await reader.read() == b""
            assert a.notes.count("peer_garbage") == 1 and a.in_flight == 0
            writer.close()

    asyncio.run(scene())


def test_listeners_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MOST_PEERS", 2)

    async def scene() -> None:
        a = Picker("a")
        async with a.exchanging():
            await asyncio.sleep(0.1)  # it has found itself at its own address
            ends, writers = [], []
            for _ in range(3):
                reader, writer = await asyncio.open_connection(*a.address)
                writers.append(writer)
                try:
                    ends.append(bool(await reader.readline()))
                except ConnectionResetError:
                    ends.append(False)
            assert ends == [True, True, False] and a.notes.count("peer_one_too_many") == 1

    asyncio.run(scene())


def test_an_outbox_that_nobody_hears_is_emptied() -> None:
    async def scene() -> None:
        a = Picker("a")
        async with a.exchanging():
            a.send()
            await until(lambda: not a.state.outbox)

    asyncio.run(scene())


EVENTS = st.lists(
    st.builds(Sent, st.just("chat"), st.just(REPLICA), st.integers(0, 10**6), st.text(max_size=5), st.lists(st.integers(0, 2**64 - 1), max_size=30))
    | st.builds(Ended, st.just("chat"), st.just(REPLICA), st.integers(0, 10**6), st.text(max_size=5))
    | st.builds(Spent, st.text(max_size=5), st.floats(-1e9, 1e9))
    | st.builds(Learnt, st.just("chat"), *[st.integers(0, 10**9)] * 4),
    max_size=20,
)  # fmt: skip


class Heard:
    """A state that only writes down."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def peer_sent(
        self, peer: str, service: str, address: str, tokens: int, adapter: str, blocks: list[int], now: int
    ) -> None:
        self.events.append(Sent(service, address, tokens, adapter, blocks))

    def peer_ended(self, peer: str, *fields: object) -> None:
        self.events.append(Ended(*fields))  # type: ignore[arg-type]

    def peer_spent(self, peer: str, tenant: str, tokens: float, now: int) -> None:
        self.events.append(Spent(tenant, tokens))

    def peer_learnt(self, peer: str, *fields: object) -> None:
        self.events.append(Learnt(*fields))  # type: ignore[arg-type]


@given(EVENTS)
def test_events_arrive_as_they_were(events: list[Event]) -> None:
    heard = Heard()
    for line in encoded(events):
        apply(heard, "peer", line.rstrip(b"\n"), 0)  # type: ignore[arg-type]
    assert heard.events == events


def test_lines_are_bounded_whatever_is_in_them() -> None:
    huge = Sent("c" * 63, REPLICA, 10**6, "a" * 100, range(2**64 - 10**6, 2**64))
    lines = list(encoded([huge, *[huge._replace(blocks=range(2**64 - 20_000, 2**64))] * 9]))
    assert max(map(len, lines)) < peers.LINE_BYTES
    assert sum(len(orjson.loads(line)) for line in lines) == 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.sampled_from(["s", "e", "c", "l", "chat", REPLICA]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.binary(max_size=60) | st.lists(JSON, max_size=3).map(lambda value: json.dumps(value).encode()))
def test_any_line_is_events_or_garbage(line: bytes) -> None:
    state = Picker("a").state
    for read in (lambda: apply(state, "peer", line, 0), lambda: instance(line)):
        with suppress(Garbage):
            read()
    state.forget_peer("peer")
    assert state.fleets["chat"].replicas[REPLICA].endpoint.in_flight == 0
