"""Several pickers at once: each tells the others what it did, 20 ms late at most.

Why it exists: a picker that knows its own requests alone sends a conversation's second turn to a replica that has never seen
the first (`python -m tests.bench.peers_hits`), and lets a tenant spend its budget once per picker. There is no shared store:
each picker connects to every other and listens. Who listens says nothing, so nobody who can reach the port can tell a picker
anything; a picker believes only the addresses that the name of the pickers has.

One line is one JSON value. The first: {"aibrix-picker": version, "id": instance}. Then lists of events, first of all that is in
flight: ["s", service, address, tokens, adapter, blocks] sent, ["e", service, address, tokens, adapter] ended, ["c", tenant,
tokens] charged, ["l", service, requests, prompt bytes, prompt tokens, answer tokens] learnt. An empty list is a sign of life.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, cast

import orjson

from aibrix_controllers.picker.observe import Clock, Note
from aibrix_controllers.picker.state import Ended, Event, Learnt, Sent, Spent, State

VERSION = 1
FLUSH_S = 0.02
ALIVE_S, SILENCE_S = 1.0, 3.0
"""A sign of life each second; a peer that gave none for three is frozen or unreachable, and is forgotten."""
LINE_BYTES = 4 << 20
BUFFER_BYTES = 16 << 20
"""What may wait for a slow peer. Above it the peer is cut off; it comes back and gets what is in flight."""
MOST_PEERS = 64
"""That listen here; each costs its buffer."""
RESOLVE_S, AGAIN_S, AGAIN_MOST_S = 5.0, 0.25, 5.0
_EVENT_BYTES, _BLOCK_BYTES = 512, 21  # at most, in JSON
_LINE_TARGET = LINE_BYTES // 4
_MOST_BLOCKS = _LINE_TARGET // _BLOCK_BYTES  # of one event; the rest of a prompt of 50 MB is nobody's common prefix
_MOST = 1e12
Address = tuple[str, int]
Find = Callable[[], Awaitable[Iterable[Address]]]


class Garbage(Exception):
    """What came is not this protocol, or another version of it."""


def resolved(names: str) -> Find:
    """All addresses of HOST:PORT, or of several with commas between them. ValueError for a port that is none."""
    places = [(host, int(port)) for host, _, port in (name.rpartition(":") for name in names.split(","))]

    async def find() -> list[Address]:
        loop = asyncio.get_running_loop()
        found = [(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), port) for host, port in places]
        return [(str(row[4][0]), port) for rows, port in found for row in rows]

    return find


class Peers:
    """`connected`: instance -> the address where it is heard, for a metric."""

    def __init__(self, state: State, ident: str, clock: Clock, note: Note) -> None:
        """`ident` is this process's own, and a new one after a restart."""
        self._state, self._ident, self._clock, self._note = state, ident, clock, note
        self.connected: dict[str, Address] = {}
        self._own: set[Address] = set()
        self._named: set[Address] = set()
        self._tasks: dict[Address, asyncio.Task[None]] = {}
        self._ears: set[asyncio.Transport] = set()

    async def run(self, listener: socket.socket, find: Find) -> None:
        """Tells and listens until cancelled. `listener` is bound; `find` gives the addresses of all pickers, this one's too."""
        server = await asyncio.get_running_loop().create_server(lambda: _Ear(self), sock=listener)
        try:
            await asyncio.gather(self._tell(), self._look(find))
        finally:
            server.close()
            for task in self._tasks.values():
                task.cancel()
            for ear in self._ears:
                ear.abort()

    # telling

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        alive = loop.time()
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                if self._flush():
                    alive = loop.time()
                elif loop.time() >= alive + ALIVE_S:
                    alive = loop.time()
                    self._send(b"[]\n")
            except Exception as error:  # what can not be told is lost, not the picker
                self._note("peer_telling_broken", why=repr(error))

    def _flush(self) -> bool:
        """Whether there was something to say. The outbox is empty afterwards, also when nobody listens."""
        events = self._state.outbox[:]
        self._state.outbox.clear()
        if self._ears:
            for line in encoded(events):
                self._send(line)
        return bool(events)

    def _send(self, line: bytes) -> None:
        for ear in list(self._ears):
            ear.write(line)
            if ear.get_write_buffer_size() > BUFFER_BYTES:
                self._ears.discard(ear)
                ear.abort()
                self._note("peer_slow", address=str(ear.get_extra_info("peername")))

    def joined(self, ear: asyncio.Transport) -> None:
        if len(self._ears) >= MOST_PEERS:
            ear.abort()
            self._note("peer_one_too_many", address=str(ear.get_extra_info("peername")))
            return
        self._flush()  # what has ended by now must not be told to it
        ear.write(orjson.dumps({"aibrix-picker": VERSION, "id": self._ident}) + b"\n")
        for line in encoded([one._replace(blocks=()) for one in self._state.in_flight()]):
            ear.write(line)
        self._ears.add(ear)

    def left(self, ear: asyncio.Transport) -> None:
        self._ears.discard(ear)

    def spoke(self, ear: asyncio.Transport) -> None:
        self._note("peer_garbage", address=str(ear.get_extra_info("peername")), why="it speaks, and should listen")
        ear.abort()

    # listening

    async def _look(self, find: Find) -> None:
        said = ""
        while True:
            try:
                self._named, said = set(await find()), ""
            except Exception as error:  # the peers that are known stay
                if str(error) != said:
                    self._note("peer_names_failed", why=str(error))
                said = str(error)
            self._own &= self._named
            self._tasks = {address: task for address, task in self._tasks.items() if not task.done()}
            for address in self._named - self._own - self._tasks.keys():
                self._tasks[address] = asyncio.create_task(self._follow(address))
            await asyncio.sleep(RESOLVE_S)

    async def _follow(self, address: Address) -> None:
        """Listens to one picker until its name is gone, or it is found to be this one."""
        loop, wait, said = asyncio.get_running_loop(), AGAIN_S, ""
        while address in self._named and address not in self._own:
            begun = loop.time()
            try:
                await self._listen(address)
            except Exception as error:  # a peer must never end the picker, whatever it does
                event = "peer_garbage" if isinstance(error, Garbage) else "peer_away"
                why = str(error) or type(error).__name__
                if why != said:
                    self._note(event, address=shown(address), why=why)
                said = why
            wait = AGAIN_S if loop.time() > begun + AGAIN_MOST_S else wait
            await asyncio.sleep(wait)
            wait = min(2 * wait, AGAIN_MOST_S)

    async def _listen(self, address: Address) -> None:
        """Returns at once from this picker itself, else only by an exception."""
        async with asyncio.timeout(SILENCE_S):
            reader, writer = await asyncio.open_connection(*address, limit=LINE_BYTES)
        ident = ""
        try:
            ident = instance(await _line(reader))
            if ident == self._ident:
                self._own.add(address)
                return
            if ident in self.connected:
                known, ident = ident, ""
                raise Garbage(f"{known} is heard at {shown(self.connected[known])} already")
            self.connected[ident] = address
            self._note("peer_joined", peer=ident, address=shown(address))
            while True:
                apply(self._state, ident, await _line(reader), self._clock())
        finally:
            writer.transport.abort()
            if self.connected.get(ident) == address:
                del self.connected[ident]
                self._state.forget_peer(ident)
                self._note("peer_lost", peer=ident, address=shown(address))


class _Ear(asyncio.Protocol):
    """One peer that listens to this picker."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._peers.joined(self._transport)

    def data_received(self, data: bytes) -> None:
        self._peers.spoke(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._peers.left(self._transport)


def encoded(events: Iterable[Event]) -> Iterator[bytes]:
    """Lines of at most LINE_BYTES."""
    rows: list[tuple[object, ...]] = []
    size = 0
    for event in events:
        if isinstance(event, Sent):
            blocks = list(event.blocks[:_MOST_BLOCKS])
            rows.append(("s", *event[:4], blocks))
            size += _BLOCK_BYTES * len(blocks)
        else:
            rows.append((_KINDS[type(event)], *event))
        size += _EVENT_BYTES
        if size > _LINE_TARGET:
            yield orjson.dumps(rows) + b"\n"
            rows, size = [], 0
    if rows:
        yield orjson.dumps(rows) + b"\n"


_KINDS: dict[type, str] = {Ended: "e", Spent: "c", Learnt: "l"}


def instance(line: bytes) -> str:
    """Who speaks, by its first line. Garbage."""
    match _json(line):
        case {"aibrix-picker": int(version), "id": str(ident)} if ident:
            if version != VERSION:
                raise Garbage(f"it speaks version {version} and not {VERSION}")
            return ident
    raise Garbage("its first line is no greeting")


def apply(state: State, peer: str, line: bytes, now: int) -> None:
    """A line of events into the state. Garbage, and then the line's events up to the wrong one have happened."""
    rows = _json(line)
    if not isinstance(rows, list):
        raise Garbage("a line is no list of events")
    for row in rows:
        match row:
            case ["s", str(service), str(address), int(tokens), str(adapter), list(blocks)] if (
                0 <= tokens < _MOST and set(map(type, blocks)) <= {int}
            ):
                state.peer_sent(peer, service, address, tokens, adapter, blocks, now)
            case ["e", str(service), str(address), int(tokens), str(adapter)]:
                state.peer_ended(peer, service, address, tokens, adapter)
            case ["c", str(tenant), int(spent) | float(spent)] if abs(spent) < _MOST:
                state.peer_spent(peer, tenant, spent, now)
            case ["l", str(service), *counts] if len(counts) == 4 and all(map(_count, counts)):
                state.peer_learnt(peer, service, *counts)
            case _:
                raise Garbage(f"this is no event: {str(row)[:80]}")


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _json(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Garbage(f"a line is no JSON: {error}") from None


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line. Garbage where it is too long, OSError and TimeoutError where there is none."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise Garbage(f"a line is above {LINE_BYTES} bytes") from None
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("the connection was closed") from None
    except TimeoutError:
        raise TimeoutError(f"nothing for {SILENCE_S:g} s") from None


def shown(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
