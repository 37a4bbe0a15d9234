"""List and watch: a local copy of one resource that follows the API server and survives its absence."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

Object = dict[str, Any]
Key = tuple[str, str]  # namespace, name


def key(value: Object) -> Key:
    return value["metadata"].get("namespace", ""), value["metadata"]["name"]


class Watched:
    """Objects of one resource by key. `changed(kind, object)` is called with ADDED, MODIFIED or DELETED, in order."""

    def __init__(
        self, api: httpx.AsyncClient, path: str, changed: Callable[[str, Object], None] = lambda *_: None
    ) -> None:
        self._api, self._path, self._changed = api, path, changed
        self.objects: dict[Key, Object] = {}
        self.listed = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                await self._follow(await self._list())
            except (httpx.HTTPError, KeyError, ValueError):
                await asyncio.sleep(0.5)  # away, or our version is too old: list again

    async def _list(self) -> str:
        answer = (await self._api.get(self._path)).raise_for_status().json()
        found = {key(one): one for one in answer["items"]}
        for gone in self.objects.keys() - found.keys():
            self._event("DELETED", self.objects[gone])
        for name, one in found.items():
            known = self.objects.get(name)
            if known is None or known["metadata"]["resourceVersion"] != one["metadata"]["resourceVersion"]:
                self._event("ADDED" if known is None else "MODIFIED", one)
        self.listed.set()
        return str(answer["metadata"]["resourceVersion"])

    async def _follow(self, version: str) -> None:
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "300"}
        async with self._api.stream("GET", self._path, params=query, timeout=httpx.Timeout(10, read=None)) as lines:
            lines.raise_for_status()
            async for line in lines.aiter_lines():
                event = json.loads(line)
                self._event(event["type"], event["object"])

    def _event(self, kind: str, value: Object) -> None:
        if kind == "ERROR":
            raise ValueError(value)
        if kind == "DELETED":
            self.objects.pop(key(value), None)
        else:
            self.objects[key(value)] = value
        self._changed(kind, value)
