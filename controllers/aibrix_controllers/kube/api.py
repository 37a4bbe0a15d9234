"""Requests to the API server. Why not a general client: half a dozen verbs, and each of the large ones costs a second of imports."""

from __future__ import annotations

import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MERGE = "application/merge-patch+json"
ANSWER_S = 10.0
_LINE = 4 << 20
"""Bytes of one object; etcd takes 1.5 MiB."""
Object = Mapping[str, Any]


class Refused(Exception):
    """The API server says no; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server answers {status} {message}"[:300].strip())
        self.status = status


class Away(Exception):
    """The API server does not answer."""


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A watch may be silent for hours, and a connection that something between has forgotten looks the same: the kernel asks the
    other side after 5 s, and gives up after 6 more. Go's clients do that with HTTP/2 pings, after 45 s."""
    family, kind, proto = address[:3]
    found = socket.socket(family, kind, proto)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
        found.setsockopt(socket.IPPROTO_TCP, option, value)
    return found


class Api:
    """`url`, and files with the token and the CA, which are read anew: both are rotated. `counts`: requests by verb and status."""

    def __init__(self, url: str, token: Path | None = None, ca: Path | None = None) -> None:
        self._url, self._token, self._ca = url.rstrip("/"), token, ca
        self._session: aiohttp.ClientSession | None = None
        self._tls: tuple[int, ssl.SSLContext] | None = None
        self.counts: Counter[tuple[str, str]] = Counter()

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str] = os.environ) -> Api:
        """LookupError outside of one."""
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
        shown = f"[{host}]" if ":" in host else host
        return cls(f"https://{shown}:{port}", ACCOUNT / "token", ACCOUNT / "ca.crt")

    async def __aenter__(self) -> Api:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=32, socket_factory=_socket),
            json_serialize=lambda one: orjson.dumps(one).decode(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session
        await self._session.close()

    async def get(self, path: str, **query: str) -> Object:
        return await self._whole("GET", path, query)

    async def post(self, path: str, body: Object) -> Object:
        return await self._whole("POST", path, {}, body)

    async def put(self, path: str, body: Object) -> Object:
        return await self._whole("PUT", path, {}, body)

    async def patch(self, path: str, body: Object, manager: str) -> Object:
        """A merge patch: what is not named stays."""
        return await self._whole("PATCH", path, {"fieldManager": manager}, body, MERGE)

    async def lines(self, path: str, query: Mapping[str, str], seconds: float) -> AsyncGenerator[bytes, None]:
        """An answer line by line as they come, for at most so long. Away, Refused."""
        times = aiohttp.ClientTimeout(total=seconds, sock_connect=5)
        async with self._asked("GET", path, query, None, "", times) as answer:
            rest = b""
            try:
                async for part in answer.content.iter_any():
                    *whole, rest = (rest + part).split(b"\n")
                    for line in whole:
                        yield line
                    if len(rest) > _LINE:
                        raise Away(f"a line has more than {_LINE} bytes")
            except TimeoutError:
                return  # our own bound
            except (aiohttp.ClientError, OSError) as error:
                raise Away(str(error) or type(error).__name__) from None

    async def _whole(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None = None,
        kind: str = "application/json",
    ) -> Object:
        times = aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=5)
        async with self._asked(method, path, query, body, kind, times) as answer:
            try:
                found: Object = orjson.loads(await answer.read())
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise Away(str(error) or type(error).__name__) from None
            return found

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        kind: str,
        times: aiohttp.ClientTimeout,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        assert self._session
        headers = {"accept": "application/json", **({"content-type": kind} if kind and body is not None else {})}
        data = orjson.dumps(body) if body is not None else None
        try:
            if self._token:
                headers["authorization"] = f"Bearer {self._token.read_text('ascii').strip()}"
            answer = await self._session.request(
                method, self._url + path, params=query, data=data, headers=headers, ssl=self._context(), timeout=times
            )
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            self.counts[method, "away"] += 1
            raise Away(str(error) or type(error).__name__) from None
        self.counts[method, str(answer.status)] += 1
        async with answer:
            if answer.status >= 400:
                raise Refused(answer.status, await _message(answer))
            yield answer

    def _context(self) -> ssl.SSLContext | bool:
        if self._ca is None:
            return True
        stamp = self._ca.stat().st_mtime_ns
        if self._tls is None or self._tls[0] != stamp:
            self._tls = stamp, ssl.create_default_context(cafile=str(self._ca))
        return self._tls[1]


async def _message(answer: aiohttp.ClientResponse) -> str:
    try:
        return str(orjson.loads(await answer.read())["message"])
    except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
        return answer.reason or ""
