"""A server that does what kube-apiserver does with pods, as far as a list and a watch can see it: pages, selectors, resource
versions, bookmarks, 410 for a version that it has forgotten, 401 without the token. It stands in for the real one where a test
needs an outage or a forgotten version at a given moment; tests/cluster has the real one."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

Pod = dict[str, Any]


def pod(name: str, address: str = "", service: str = "chat", **more: Any) -> Pod:
    """`ready`, `draining`, `restarts`, `phase`, `role`, `pool` and `namespace` make it differ from an ordinary one."""
    labels = {"serving.aibrix.ai/service": service, "serving.aibrix.ai/pool": more.get("pool", "l4")}
    labels["serving.aibrix.ai/role"] = more.get("role", "serve")
    meta = {"name": name, "namespace": more.get("namespace", f"ns-{service}"), "uid": f"uid-{name}", "labels": labels}
    if more.get("draining"):
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    containers = [{"name": "sidecar", "restartCount": 9}, {"name": "engine", "restartCount": more.get("restarts", 0)}]
    ready = {"type": "Ready", "status": "True" if more.get("ready", True) else "False"}
    status = {"phase": more.get("phase", "Running"), "conditions": [{"type": "Initialized", "status": "True"}, ready]}
    status |= {"containerStatuses": containers} | ({"podIP": address} if address else {})
    return {"metadata": meta, "status": status}


class KubeApi:
    def __init__(self, token: str = "secret") -> None:
        self.pods: dict[tuple[str, str], Pod] = {}
        self.version = 100
        self.oldest = 0
        """Watches from before it are answered with 410."""
        self.history: list[tuple[int, str, Pod]] = []
        self.asked: list[str] = []
        self.fail = 0
        """An HTTP status for every request; 0: none."""
        self.end = asyncio.Event()
        """Set: watches end, as they do after timeoutSeconds."""
        self.port = 0
        self._token = token
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    def put(self, one: Pod) -> None:
        key = one["metadata"]["namespace"], one["metadata"]["name"]
        self._say("MODIFIED" if key in self.pods else "ADDED", one)
        self.pods[key] = one

    def remove(self, name: str, namespace: str = "ns-chat") -> None:
        self._say("DELETED", self.pods.pop((namespace, name)))

    def bookmark(self) -> None:
        self._say("BOOKMARK", {"metadata": {}})

    def forget(self) -> None:
        """Compaction: only what is there now can be watched from."""
        self.oldest = self.version
        self.history.clear()

    def _say(self, kind: str, one: Pod) -> None:
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, kind, json.loads(json.dumps(one))))
        self._changed.set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[KubeApi]:
        await self.start(tls)
        try:
            yield self
        finally:
            self.stop()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """No new connection, and none of the old ones."""
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                target = head.split(" ", 2)[1]
                self.asked.append(target)
                await self._answer(head, target, writer)
                await writer.drain()
        writer.close()

    async def _answer(self, head: str, target: str, writer: asyncio.StreamWriter) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
        match = re.fullmatch(r"/api/v1/namespaces/([^/]+)/pods", urlsplit(target).path)
        if self.fail:
            _whole(writer, self.fail, {"kind": "Status", "message": "it was told to"})
        elif f"authorization: bearer {self._token}" not in head.lower():
            _whole(writer, 401, {"kind": "Status", "message": "Unauthorized"})
        elif match is None:
            _whole(writer, 404, {"kind": "Status", "message": "not found"})
        elif "watch" in query:
            await self._watch(writer, match[1], query)
        else:
            self._list(writer, match[1], query)

    def _list(self, writer: asyncio.StreamWriter, namespace: str, query: dict[str, str]) -> None:
        found = [one for (where, _), one in sorted(self.pods.items()) if where == namespace and _selected(one, query)]
        start, limit = int(query.get("continue", "0")), int(query["limit"])
        meta: dict[str, str] = {"resourceVersion": str(self.version)}
        if start + limit < len(found):
            meta["continue"] = str(start + limit)
        _whole(writer, 200, {"kind": "PodList", "metadata": meta, "items": found[start : start + limit]})

    async def _watch(self, writer: asyncio.StreamWriter, namespace: str, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        at = int(query["resourceVersion"])
        if at < self.oldest:
            _event(writer, "ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})
        while at >= self.oldest and not self.end.is_set():
            changed = self._changed
            for version, kind, one in [row for row in self.history if row[0] > at]:
                at = version
                if kind == "BOOKMARK" or (one["metadata"]["namespace"] == namespace and _selected(one, query)):
                    _event(writer, kind, one)
            await writer.drain()
            waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(self.end.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        writer.write(b"0\r\n\r\n")


def _selected(one: Pod, query: dict[str, str]) -> bool:
    labels = one["metadata"]["labels"]
    names = re.search(r"serving\.aibrix\.ai/service in \(([^)]*)\)", query["labelSelector"])
    role = re.search(r"serving\.aibrix\.ai/role=(\w+)", query["labelSelector"])
    assert names and role
    chosen = names[1].split(",")
    return labels["serving.aibrix.ai/service"] in chosen and labels["serving.aibrix.ai/role"] == role[1]


def _whole(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    text = json.dumps(body).encode()
    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(text)) + text)


def _event(writer: asyncio.StreamWriter, kind: str, one: dict[str, Any]) -> None:
    text = json.dumps({"type": kind, "object": one}).encode() + b"\n"
    writer.write(b"%x\r\n" % len(text) + text + b"\r\n")
