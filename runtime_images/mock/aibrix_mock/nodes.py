"""Replicas over several nodes. Why it exists: a LeaderWorkerSet starts the same command on every node, and its tests need
what a real engine does there - the leader serves once all nodes have come, and when one leaves the whole replica ends."""

from __future__ import annotations

import asyncio
import logging

LOG = logging.getLogger("aibrix_mock")
_RETRY = 0.2  # seconds between two attempts of a worker to find its leader


async def gather(nodes: int, port: int) -> asyncio.Future[None]:
    """On the leader: returns when all others are connected; the future is done when one of them is gone."""
    loop = asyncio.get_running_loop()
    complete: asyncio.Future[None] = loop.create_future()
    gone: asyncio.Future[None] = loop.create_future()
    ranks: set[bytes] = set()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank = await reader.readline()
        ranks.add(rank)
        LOG.info("node %s of %d is here", rank.decode().strip(), nodes)
        if len(ranks) == nodes - 1 and not complete.done():
            complete.set_result(None)
        await reader.read()
        ranks.discard(rank)
        writer.close()
        if complete.done() and not gone.done():
            gone.set_result(None)

    server = await asyncio.start_server(joined, None, port)
    await complete
    gone.add_done_callback(lambda _: server.close())
    return gone


async def join(address: tuple[str, int], rank: int) -> None:
    """On a worker: finds the leader, however long it takes, and returns when the leader is gone."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(*address)
            break
        except OSError:
            await asyncio.sleep(_RETRY)
    writer.write(f"{rank}\n".encode())
    await writer.drain()
    await reader.read()
    writer.close()
