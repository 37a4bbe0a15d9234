"""Pickers over HTTP: each address of their name is asked twice a second what they have counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import aiohttp
import orjson

from aibrix_controllers.kube.watch import Note

PERIOD_S, NAMES_S, ANSWER_S = 0.5, 2.0, 2.0
_BYTES = 16 << 20


class Heard(Protocol):
    """Who is told of pages. `told` says whether somebody waits who did not before; KeyError, TypeError, ValueError, AttributeError
    for a page that is none."""

    def told(self, address: str, page: Mapping[str, Any], now: int) -> bool: ...

    def gone(self, address: str) -> None: ...

    def forget(self, now: int) -> None: ...


class Pickers:
    """`names`: HOST:PORT, each host a name of several. `woken` is called when somebody waits who did not before."""

    def __init__(
        self, names: Sequence[str], demand: Heard, clock: Callable[[], int], woken: Callable[[], None], note: Note
    ) -> None:
        self._names, self._demand, self._clock, self._woken, self._note = names, demand, clock, woken, note
        self._said: dict[str, str] = {}

    async def follow(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        addresses: set[str] = set()
        looked = -NAMES_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=1)) as session:
            while self._names:
                begun = loop.time()
                if begun - looked >= NAMES_S:
                    looked, found = begun, await self._resolved()
                    for address in addresses - found:
                        self._demand.gone(address)
                    addresses = found
                await asyncio.gather(*(self._ask(session, address) for address in sorted(addresses)))
                self._demand.forget(self._clock())
                await asyncio.sleep(max(0.05, PERIOD_S - (loop.time() - begun)))

    async def _resolved(self) -> set[str]:
        found: set[str] = set()
        for name in self._names:
            host, _, port = name.rpartition(":")
            try:
                rows = await asyncio.get_running_loop().getaddrinfo(
                    host.strip("[]"), int(port), type=socket.SOCK_STREAM
                )
                found |= {f"[{row[4][0]}]:{port}" if ":" in str(row[4][0]) else f"{row[4][0]}:{port}" for row in rows}
                self._say(name, "")
            except OSError as error:
                self._say(name, str(error))
        return found

    async def _ask(self, session: aiohttp.ClientSession, address: str) -> None:
        try:
            async with session.get(f"http://{address}/demand") as answer:
                if answer.status != 200:
                    raise ValueError(f"it answers {answer.status}")
                page = orjson.loads(await answer.content.read(_BYTES))
            if self._demand.told(address, page, self._clock()):
                self._woken()
            self._say(address, "")
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._say(address, str(error) or type(error).__name__)

    def _say(self, address: str, why: str) -> None:
        """Once, not twice a second."""
        if self._said.get(address, "") != why:
            self._note("picker_silent" if why else "picker_heard", address=address, why=why)
        self._said[address] = why
