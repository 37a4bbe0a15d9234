"""The engine beside us, over HTTP on localhost: the only part that knows its paths. The mock speaks vLLM's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp

from aibrix_runtime.errors import Failed

LOOK_S = 1.0
"""For an answer to a look; longer means that it hangs. Pickers avoid such a replica at once, the kubelet after some looks more."""
LOAD_S = 120.0
"""For a load: it reads files and may wait for the step under way."""
_BYTES = 8 << 20


class Listed(NamedTuple):
    """A model that the engine lists. `parent` is empty for the base model; `root` is where an adapter was read from."""

    name: str
    root: str
    parent: str


class Away(Exception):
    """No answer. `state`: gone, hung or dead."""

    def __init__(self, state: str, why: str) -> None:
        super().__init__(why)
        self.state, self.why = state, why


class Engine:
    """`url` without a slash at its end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Engine:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16, keepalive_timeout=4))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session
        await self._session.close()

    async def health(self) -> None:
        """Away: it can not serve."""
        status, text = await self._ask("GET", "/health")
        if status != 200:
            raise Away("dead", f"/health answers {status} {text[:200].decode('utf-8', 'replace')}".strip())

    async def models(self) -> tuple[dict[str, Any], list[Listed]]:
        """Its own answer, and what it says. Away."""
        status, text = await self._ask("GET", "/v1/models")
        try:
            data = json.loads(text)
            rows = [Listed(row["id"], str(row.get("root") or ""), str(row.get("parent") or "")) for row in data["data"]]
        except (ValueError, KeyError, TypeError):
            raise Away("dead", f"/v1/models answers {status}, and no list of models") from None
        return data, rows

    async def page(self) -> bytes | None:
        """/metrics; None if it has none. Away."""
        status, text = await self._ask("GET", "/metrics")
        return text if status == 200 else None

    async def load(self, name: str, path: str, replace: bool) -> None:
        """Failed: engine_refused with its words, engine_away."""
        await self._act(
            "/v1/load_lora_adapter",
            {"lora_name": name, "lora_path": path, **({"load_inplace": True} if replace else {})},
        )

    async def unload(self, name: str) -> None:
        await self._act("/v1/unload_lora_adapter", {"lora_name": name})

    async def _act(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            status, text = await self._ask("POST", path, body, LOAD_S)
        except Away as error:
            raise Failed("engine_away", f"the engine does not answer: {error.why}") from None
        if status != 200:
            said = _message(text)
            raise Failed("engine_refused", f"the engine answers {status}: {said}", said)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = LOOK_S
    ) -> tuple[int, bytes]:
        assert self._session
        try:
            async with self._session.request(
                method, self._url + path, json=body, timeout=aiohttp.ClientTimeout(total=seconds), allow_redirects=False
            ) as answer:
                text = b""
                async for part in answer.content.iter_any():
                    text += part
                    if len(text) > _BYTES:
                        raise Away("dead", f"{path} answers more than {_BYTES} bytes")
                return answer.status, text
        except TimeoutError:
            raise Away("hung", f"{path}: no answer for {seconds:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise Away("gone", f"{path}: {error.os_error.strerror or error}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Away("gone", f"{path}: {error or type(error).__name__}") from None


def _message(text: bytes) -> str:
    """The engine's own words, whatever shape they have."""
    try:
        data = json.loads(text)
        found = data.get("message") or data.get("error") or data
        found = found.get("message", found) if isinstance(found, dict) else found
        return " ".join(str(found).split())[:500]
    except (ValueError, AttributeError):
        return " ".join(text.decode("utf-8", "replace").split())[:500]
