"""Which replicas DNS knows. Why it exists: Envoy sends a request only to an address that it has found in DNS, up to 30 s later
than a pod is there, so a held request must not be released to one that Envoy would not take. Asked only while a service
holds requests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aibrix_controllers.picker.config import Config
from aibrix_controllers.picker.observe.fleet import Fleet

PERIOD_S = 1.0
Resolve = Callable[[str], Awaitable[frozenset[str]]]
"""A host's IP addresses; OSError where there is no answer."""


async def resolve(host: str) -> frozenset[str]:
    """A name that does not exist has no addresses: so Envoy takes it, too."""
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            return frozenset()
        raise
    return frozenset(str(row[4][0]) for row in rows)


async def follow(config: Callable[[], Config], fleet: Fleet, ask: Resolve = resolve) -> None:
    """Asks once a second for each service that holds requests, until cancelled. A slow answer delays no other service."""
    asking: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            asking = {name: task for name, task in asking.items() if not task.done()}
            for name, count in fleet.state.holding().items():
                service = config().services.get(name)
                if count and service and service.host and name not in asking:
                    asking[name] = asyncio.create_task(_ask(fleet, name, service.host, ask))
            await asyncio.sleep(PERIOD_S)
    finally:
        for task in asking.values():
            task.cancel()


async def _ask(fleet: Fleet, service: str, host: str, ask: Resolve) -> None:
    try:
        fleet.state.visible(service, await ask(host), fleet.clock())
    except OSError as error:
        fleet.note("dns_failed", service=service, host=host, why=str(error))
