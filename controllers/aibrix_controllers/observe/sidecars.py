"""Sidecars over HTTP: their load streams, each followed for as long as its pod is there, and what they are asked to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from aibrix_controllers.kube.watch import Note
from aibrix_controllers.observe import replicas as seen
from aibrix_controllers.observe.replicas import Line, Replica

SILENT_S = 3.0
"""A line comes each second; after three the replica's word counts no more."""
AGAIN_S = 0.3
ACT_S = 900.0
"""For a load: it may fetch gigabytes."""
_LINE = 4 << 20
QUERY = {"watch": "1"}


class Sidecars:
    """`lines` by pod. `changed` is called when one says something new; `token` is read anew with each connection."""

    def __init__(self, token: Path | None, changed: Callable[[], None], note: Note) -> None:
        self._token, self._changed, self._note = token, changed, note
        self.lines: dict[str, Line] = {}
        self._following: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Sidecars:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=False), read_bufsize=_LINE
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for _address, task in self._following.values():
            task.cancel()
        assert self._session
        await self._session.close()

    @property
    def connected(self) -> int:
        return len(self.lines)

    def follow(self, replicas: Iterable[Replica]) -> None:
        """These, and no others."""
        wanted = {one.name: one.runtime for one in replicas if one.runtime}
        for name in [name for name, (address, _) in self._following.items() if wanted.get(name) != address]:
            self._following.pop(name)[1].cancel()
            self.lines.pop(name, None)
        for name, address in wanted.items():
            if name not in self._following:
                self._following[name] = address, asyncio.create_task(self._follow(name, address))

    async def _follow(self, name: str, address: str) -> None:
        said = ""
        while True:
            try:
                await self._watch(name, address)
                why = "it ended the stream"
            except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
                why = str(error) or type(error).__name__
            if self.lines.pop(name, None) is not None:
                said = ""
                self._changed()
            if why != said:
                self._note("sidecar_silent", replica=name, address=address, why=why)
            said = why
            await asyncio.sleep(AGAIN_S)

    async def _watch(self, name: str, address: str) -> None:
        assert self._session
        times = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=SILENT_S)
        async with self._session.get(
            f"http://{address}/v1/load", params=QUERY, headers=self._headers(), timeout=times
        ) as answer:
            if answer.status != 200:
                raise ValueError(f"{answer.status} {(await answer.content.read(500)).decode('utf-8', 'replace')}")
            while text := await answer.content.readline():
                before = self.lines.get(name)
                found = seen.line(orjson.loads(text), before)
                if found != before:
                    self.lines[name] = found
                    if before is None or before.without_load() != found.without_load():
                        self._changed()

    async def act(self, address: str, path: str, body: Mapping[str, Any]) -> tuple[str, str]:
        """(code, message) of what came of it; code is empty where it was done."""
        assert self._session
        times = aiohttp.ClientTimeout(total=ACT_S, sock_connect=3)
        try:
            async with self._session.post(
                f"http://{address}{path}", data=orjson.dumps(body), headers=self._headers(), timeout=times
            ) as answer:
                text = await answer.content.read(1 << 16)
                if answer.status == 200:
                    return "", ""
                try:
                    error = orjson.loads(text)["error"]
                    said = error.get("engine", "")
                    more = f" - the engine: {said}" if said and said not in error["message"] else ""
                    return str(error["code"]), f"{error['message']}{more}"
                except (ValueError, KeyError, TypeError):
                    return "sidecar_failed", f"the sidecar answers {answer.status}"
        except (aiohttp.ClientError, OSError) as error:
            return "sidecar_away", f"the sidecar does not answer: {error or type(error).__name__}"

    def _headers(self) -> dict[str, str]:
        found = {"content-type": "application/json"}
        return found | ({"authorization": f"Bearer {self._token.read_text('ascii').strip()}"} if self._token else {})
