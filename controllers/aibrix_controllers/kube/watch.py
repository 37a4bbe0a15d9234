"""A collection of objects, listed once and then watched. While the API server is away, what is known stays known, and `age` says
how long that is so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Protocol

import orjson

from aibrix_controllers.kube.api import Api, Away, Object, Refused

PAGE = "200"
WATCH_S, SLACK_S = 60, 15.0
"""The server ends a watch, or SLACK_S later we do: a connection that died without a word costs a minute at most."""
BACK_OFF_S, BACK_OFF_MOST_S = 0.5, 15.0


class Note(Protocol):
    """Something that a person may want to know: a line of the log and a count by its name."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


class Collection:
    """`objects` by name, of one namespace. `changed` is called after each change."""

    def __init__(self, api: Api, path: str, selector: str, changed: Callable[[], None], note: Note) -> None:
        self._api, self._path, self._selector, self._changed, self._note = api, path, selector, changed, note
        self.objects: dict[str, Object] = {}
        self.synced = asyncio.Event()
        self._heard = 0.0

    def age(self) -> float:
        """Seconds since the API server last said anything about it."""
        return asyncio.get_running_loop().time() - self._heard

    async def follow(self, random: Callable[[], float]) -> None:
        """Until cancelled. `random` in [0, 1) spreads the attempts of several controllers after an outage."""
        wait, said = BACK_OFF_S, ""
        loop = asyncio.get_running_loop()
        while True:
            try:
                version = await self._list()
                wait = BACK_OFF_S
                if said:
                    self._note("kubernetes_back", path=self._path)
                    said = ""
                while True:
                    begun = loop.time()
                    version = await self._watch(version)
                    await asyncio.sleep(begun + BACK_OFF_S - loop.time())  # after a watch that ended at once
            except Refused as error:
                if error.status == 410:
                    continue  # the version to go on from is forgotten: list again
                why = str(error)
            except Exception as error:  # whatever the server sends, this goes on with what it knows
                why = str(error) or type(error).__name__
            if why != said:
                self._note("kubernetes_away", path=self._path, why=why)
            said = why
            await asyncio.sleep(wait * (0.5 + random()))
            wait = min(2 * wait, BACK_OFF_MOST_S)

    async def _list(self) -> str:
        found: dict[str, Object] = {}
        after = ""
        while True:
            page = await self._api.get(
                self._path, **self._chosen(), limit=PAGE, **({"continue": after} if after else {})
            )
            found |= {one["metadata"]["name"]: one for one in page["items"]}
            after = page["metadata"].get("continue", "")
            if not after:
                break
        self.objects = found
        self._told()
        self.synced.set()
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> str:
        query = {**self._chosen(), "watch": "1", "allowWatchBookmarks": "true"}
        query |= {"resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        async with aclosing(self._api.lines(self._path, query, WATCH_S + SLACK_S)) as lines:
            async for line in lines:
                if line:
                    version = self._event(orjson.loads(line))
        return version

    def _event(self, event: Object) -> str:
        kind, one = event["type"], event["object"]
        if kind == "ERROR":
            raise Refused(int(one.get("code", 500)), str(one.get("message", "")))
        if kind == "DELETED":
            self.objects.pop(one["metadata"]["name"], None)
        elif kind != "BOOKMARK":
            self.objects[one["metadata"]["name"]] = one
        if kind != "BOOKMARK":
            self._told()
        else:
            self._heard = asyncio.get_running_loop().time()
        return str(one["metadata"]["resourceVersion"])

    def _told(self) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._changed()

    def _chosen(self) -> Mapping[str, str]:
        return {"labelSelector": self._selector} if self._selector else {}


__all__ = ["Away", "Collection", "Note"]
