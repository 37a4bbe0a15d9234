"""Who calls, and what they may. Why it exists: whoever can load an adapter decides what a model answers.

In a cluster a caller sends its projected ServiceAccount token (audience `aibrix-runtime`), which is verified here against the
issuer's public keys: no call to the API server for a request, and none of ours holds a shared secret. Elsewhere a file has tokens.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import aiohttp
import jwt

from aibrix_runtime.config import RIGHTS, Config, Mistake
from aibrix_runtime.errors import Failed

ALGORITHMS = ["RS256", "ES256", "ES384"]
LEEWAY_S = 30
REFRESH_S, AGAIN_S = 600.0, 10.0
"""Between two looks at the issuer's keys, and at least between two for the sake of an unknown key."""
_LONGEST = 16384
_BYTES = 1 << 20


class Caller(NamedTuple):
    subject: str
    rights: frozenset[str]


class Access(Protocol):
    async def caller(self, token: str) -> Caller:
        """Failed: unauthorized, no_keys."""


def bearer(header: str) -> str:
    """The token of an Authorization header. Failed `unauthorized`."""
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer" or not token or len(token) > _LONGEST:
        raise Failed("unauthorized", "a bearer token is wanted: a ServiceAccount token with audience aibrix-runtime")
    return token.strip()


class Tokens:
    """From a file: `TOKEN RIGHT[,RIGHT]` a line. Mistake: it is not that."""

    def __init__(self, path: Path) -> None:
        self._rows: list[tuple[bytes, Caller]] = []
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Mistake(f"{path}: {error}") from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                token, _, rights = line.strip().partition(" ")
                names = frozenset(one.strip() for one in rights.split(","))
                if not names <= set(RIGHTS):
                    raise Mistake(f"{path}:{number}: TOKEN RIGHT[,RIGHT] is wanted; rights are {', '.join(RIGHTS)}")
                self._rows.append((token.encode(), Caller(f"token of line {number}", names)))

    async def caller(self, token: str) -> Caller:
        given = token.encode()
        found = [caller for known, caller in self._rows if hmac.compare_digest(known, given)]
        if not found:
            raise Failed("unauthorized", "the token is none of those that are known here")
        return found[0]


Fetch = Callable[[], Awaitable[Mapping[str, Any]]]
"""The issuer's keys as a JSON Web Key Set; OSError, ValueError."""


class Cluster:
    """Tokens of the cluster's ServiceAccounts. While the API server is away, the keys that are known stay."""

    def __init__(self, config: Callable[[], Config], identity: Path, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._config, self._identity, self._fetch, self._clock = config, identity, fetch, clock
        self._keys: dict[str, Any] = {}
        self._asked = -REFRESH_S
        self._why = "they were not asked for yet"
        self._one = asyncio.Lock()

    async def caller(self, token: str) -> Caller:
        try:
            head = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise Failed("unauthorized", "the token is no JSON Web Token") from None
        ident = str(head.get("kid", ""))
        await self._look(REFRESH_S if ident in self._keys else AGAIN_S)
        if not self._keys:
            raise Failed("no_keys", f"tokens can not be verified: the issuer's keys are not here: {self._why}")
        if ident not in self._keys:
            raise Failed("unauthorized", "the token is signed with a key that the cluster does not have")
        config = self._config()
        try:
            claims = jwt.decode(
                token,
                self._keys[ident],
                algorithms=ALGORITHMS,
                audience=config.audience,
                issuer=self._issuer(),
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Failed("unauthorized", f"the token is not valid here: {error}") from None
        subject = str(claims["sub"])
        return Caller(subject, config.subjects.get(subject, frozenset()))

    def _issuer(self) -> str:
        """That of our own token: the cluster's."""
        try:
            token = (self._identity / "token").read_text("ascii").strip()
            return str(jwt.decode(token, options={"verify_signature": False})["iss"])
        except (OSError, ValueError, KeyError, jwt.PyJWTError) as error:
            raise Failed("no_keys", f"tokens can not be verified: our own token can not be read: {error}") from None

    async def _look(self, age: float) -> None:
        async with self._one:
            if self._clock() - self._asked < age:
                return
            self._asked = self._clock()
            try:
                found = jwt.PyJWKSet.from_dict(dict(await self._fetch()))
            except (
                OSError,
                ValueError,
                TypeError,
                KeyError,
                aiohttp.ClientError,
                jwt.PyJWTError,
                TimeoutError,
            ) as error:
                self._why = str(error) or type(error).__name__
                return
            self._keys = {key.key_id: key for key in found.keys if key.key_id}


def of_cluster(identity: Path, environment: Mapping[str, str] = os.environ) -> Fetch:
    """Asks the API server, as the pod's own account: any account may read the keys."""

    async def fetch() -> Mapping[str, Any]:
        host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
        if not host:
            raise ValueError("KUBERNETES_SERVICE_HOST is not set: this is no cluster; use --token-file")
        token = (identity / "token").read_text("ascii").strip()
        tls = ssl.create_default_context(cafile=str(identity / "ca.crt"))
        shown = f"[{host}]" if ":" in host else host
        headers = {"authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(f"https://{shown}:{port}/openid/v1/jwks", ssl=tls, headers=headers) as answer,
        ):
            text = await answer.content.read(_BYTES)
            if answer.status != 200:
                raise ValueError(f"the API server answers {answer.status}")
            found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("the API server gives no key set")
        return found

    return fetch
