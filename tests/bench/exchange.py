"""What it costs pickers to tell each other what they do: `python -m tests.bench.exchange`. It prints figures and asserts nothing
about time.

One process makes requests into its state and tells, another listens: each figure is CPU time of that process, as a share of a
core. The first one's own work of making requests is measured without a listener and taken off. Prompts share no prefix, which
is the dearest case for the index of who listens.
"""

import asyncio
import multiprocessing
import socket
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from random import Random

from aibrix_controllers.picker.config import Config, parse
from aibrix_controllers.picker.peers import Address, Peers
from aibrix_controllers.picker.state import BLOCK_BYTES, BYTES_PER_TOKEN, Sent, State

SECONDS = 8
REPLICA = "10.0.0.1:8000"
LOADS = ((1000, 1 << 10), (30, 400 << 10))
"""Requests a second, bytes of a prompt."""


def configured() -> Config:
    return parse({"version": "1", "services": {"chat": {"port": 8000, "model": "m", "pools": {}}}, "clusters": {}})


def clock() -> int:
    return time.monotonic_ns() // 1000


def made() -> State:
    state = State(configured(), clock(), sharing=True)
    state.replica("chat", REPLICA, "", ready=True, draining=False, incarnation="", now=clock())
    return state


def quiet(event: str, /, **fields: object) -> None: ...


async def requests(state: State, rate: int, size: int) -> None:
    """Each is sent and, a hundred later, ended."""
    loop, random, fleet = asyncio.get_running_loop(), Random(0), state.fleets["chat"]
    replica, open_, due = fleet.replicas[REPLICA], [], loop.time()
    while True:
        due += 0.01
        await asyncio.sleep(due - loop.time())
        for _ in range(rate // 100 or random.random() < rate / 100):
            blocks = [random.getrandbits(64) for _ in range(size // BLOCK_BYTES)]
            event = Sent("chat", REPLICA, int(size / BYTES_PER_TOKEN), "", blocks)
            open_.append(state.sent(fleet, replica, event.tokens, 0, event, clock()))
            if len(open_) > 100:
                state.ended(open_.pop(0))


def listen(address: Address, told: Connection) -> None:
    state = made()

    async def find() -> list[Address]:
        return [address]

    async def run() -> None:
        task = asyncio.create_task(Peers(state, "listener", clock, quiet).run(bound(), find))
        await asyncio.sleep(1.5)
        before, began = time.process_time(), time.monotonic()
        await asyncio.sleep(SECONDS)
        used = (time.process_time() - before) / (time.monotonic() - began)
        told.send((used, state.fleets["chat"].replicas[REPLICA].endpoint.in_flight))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())


def bound() -> socket.socket:
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    return one


async def tell(rate: int, size: int, heard: bool) -> tuple[float, float, int]:
    """CPU of who tells and of who listens, and the requests in flight that the latter knows of."""
    state, listener = made(), bound()
    address: Address = listener.getsockname()

    async def nobody() -> list[Address]:
        return [address]

    tasks = [asyncio.ensure_future(requests(state, rate, size))]
    tasks.append(asyncio.ensure_future(Peers(state, "teller", clock, quiet).run(listener, nobody)))
    await asyncio.sleep(0.2)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=listen, args=(address, there))
    if heard:
        process.start()
    await asyncio.sleep(2)
    before, began = time.process_time(), time.monotonic()
    await asyncio.sleep(SECONDS)
    used = (time.process_time() - before) / (time.monotonic() - began)
    found = await asyncio.to_thread(here.recv) if heard else (0.0, 0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if heard:
        process.join()
    return used, *found


def main() -> None:
    print("share of a core                       tells   listens   in flight that it knows")
    for rate, size in ((0, 0), *LOADS):
        alone, *_ = asyncio.run(tell(rate, size, False))
        used, listens, known = asyncio.run(tell(rate, size, True))
        title = f"{rate:5d} requests/s of {size >> 10:3d} KB" if rate else "nothing to say"
        print(f"{title:34} {used - alone:8.4f}  {listens:8.4f}   {known}")


if __name__ == "__main__":
    main()
