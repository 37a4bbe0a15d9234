"""Traffic: conversations that share their beginning, sent as fast as answers come or at a given rate."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.gateway.engine import MODEL
from tests.bench.gateway.wire import Answer, Connection, connect, head, once

_UNIQUE = 12  # digits at the end of every prompt that no other prompt has
_PATIENCE = 20.0  # seconds for answers that are due; a router that hangs must not hang the run


class Prompts:
    """Requests of `size` bytes of prompt; `conversations` of them begin alike, so that a prefix is worth something."""

    def __init__(
        self, size: int, headers: Mapping[str, str], conversations: int = 16, seed: int = 1, **fields: object
    ) -> None:
        """`fields`: further ones of the body, such as `stream`."""
        self._random, self._sent = random.Random(seed), 0
        self._heads: list[bytes] = []
        letters = "abcdefghijklmnopqrstuvwxyz     "
        words = "".join(self._random.choices(letters, k=4096)) * (size // 4096 + 1)
        for number in range(conversations):
            text = f"conversation {number:4d} {words}"[: max(1, size - _UNIQUE)]
            message = {"role": "user", "content": text + "#"}
            body = json.dumps({"model": MODEL, **fields, "messages": [message]}).encode()
            begin, mark, self._tail = body.rpartition(b"#")
            assert mark
            length = len(begin) + _UNIQUE + len(self._tail)
            self._heads.append(head("POST", "/v1/chat/completions", headers, length) + begin)

    def __call__(self) -> tuple[bytes, ...]:
        """The next request's bytes."""
        self._sent += 1
        return self._random.choice(self._heads), b"%0*d" % (_UNIQUE, self._sent), self._tail


@dataclass(slots=True)
class Sample:
    """`latencies` in seconds of whole answers with status 200, `failed` of all others."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failed: int = 0

    def add(self, answer: Answer, since: float) -> None:
        if answer.whole and answer.status == 200:
            self.latencies.append(answer.ended - since)
        else:
            self.failed += 1

    def percentile(self, share: float) -> float:
        found = sorted(self.latencies)
        return found[min(len(found) - 1, int(len(found) * share))] if found else float("nan")


async def closed(addresses: Sequence[str], prompts: Prompts, connections: int, seconds: float) -> Sample:
    """So many connections, spread over the addresses; each asks again as soon as it has its answer."""
    sample, start = Sample(), time.perf_counter()

    async def worker(address: str) -> None:
        connection = await connect(address)
        while time.perf_counter() < start + seconds:
            if not connection.usable:
                connection = await connect(address)
            answer = await connection.ask(*prompts())
            sample.add(answer, answer.sent)
        connection.close()

    tasks = [asyncio.create_task(worker(addresses[n % len(addresses)])) for n in range(connections)]
    late = await _ended(tasks, seconds + _PATIENCE)
    sample.failed += late
    sample.seconds = time.perf_counter() - start
    return sample


async def _ended(tasks: Collection[asyncio.Task[None]], seconds: float) -> int:
    """Waits for all, so many seconds at most; how many had not ended by themselves."""
    if not tasks:
        return 0
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    return len(late) + sum(task.exception() is not None for task in done)


async def arrivals(rate: float, seconds: float, seed: int = 1) -> AsyncIterator[float]:
    """Moments (time.perf_counter) of a Poisson process at `rate` per second, each yielded when it has come."""
    draw, start = random.Random(seed), time.perf_counter()
    due = start
    while (due := due + draw.expovariate(rate)) < start + seconds:
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        yield due


async def paced(addresses: Sequence[str], prompts: Prompts, rate: float, seconds: float) -> Sample:
    """At `rate` per second, however late answers are; latencies count from the moment a request was due."""
    sample, start, tasks = Sample(), time.perf_counter(), list[asyncio.Task[None]]()
    idle: dict[str, list[Connection]] = {address: [] for address in addresses}
    turn = 0

    async def one(address: str, due: float) -> None:
        connection = idle[address].pop() if idle[address] else await connect(address)
        sample.add(await connection.ask(*prompts()), due)
        if connection.usable:
            idle[address].append(connection)

    async for due in arrivals(rate, seconds):
        turn += 1
        task = asyncio.create_task(one(addresses[turn % len(addresses)], due))
        tasks.append(task)
    late = await _ended(tasks, _PATIENCE)
    sample.failed += late
    sample.seconds = time.perf_counter() - start
    for connections in idle.values():
        for connection in connections:
            connection.close()
    return sample


async def streams(
    address: str, request: Callable[[], Sequence[bytes]], rate: float, stop: asyncio.Event
) -> list[Answer]:
    """One request after the other at `rate`, each on its own connection, until `stop`; then waits 6 s for the last."""
    tasks: list[asyncio.Task[Answer]] = []
    async for _ in arrivals(rate, 600):
        if stop.is_set():
            break
        tasks.append(asyncio.create_task(once(address, request(), 60)))
    await asyncio.wait(tasks, timeout=6)
    for task in tasks:
        task.cancel()
    return [task.result() for task in tasks if task.done() and not task.cancelled()]
