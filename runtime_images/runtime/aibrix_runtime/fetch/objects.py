"""s3:// and gs://, by obstore: ranged reads, retries and cloud identities are its own."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from obstore import exceptions
from obstore.store import GCSStore, S3Store

from aibrix_runtime.config import S3
from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Meta, Secret
from aibrix_runtime.fetch.uris import Uri

_CONNECT, _ANSWER = timedelta(seconds=5), timedelta(seconds=60)
_RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
_KEYS = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
}
T = TypeVar("T")


class ObjectStore:
    """A folder of a bucket. Without a Secret it is read with the identity that the pod has."""

    def __init__(self, uri: Uri, entries: Mapping[str, str], secret: Secret | None, s3: S3 | None) -> None:
        self._uri, self._secret = uri, secret.name if secret else ""
        plain = bool(s3 and s3.endpoint.startswith("http://"))
        client: Any = {"connect_timeout": _CONNECT, "timeout": _ANSWER, "allow_http": plain}
        common: Any = {"prefix": uri.path or None, "client_options": client, "retry_config": _RETRY}
        if uri.scheme == "gs":
            key: Any = {"service_account_key": entries[secret.key]} if secret and secret.key in entries else {}
            self._store: Any = GCSStore(uri.host, **key, **common)
            return
        more: dict[str, Any] = {_KEYS[name]: text for name, text in entries.items() if name in _KEYS}
        if secret and not more:
            raise Failed("denied", f"Secret {secret.name} has none of {', '.join(_KEYS)}")
        if s3:
            more |= {"endpoint": s3.endpoint} | ({"region": s3.region} if s3.region else {})
        self._store = S3Store(uri.host, **more, **common)

    async def head(self, name: str) -> Meta | None:
        try:
            found = await self._told(self._store.head_async(name))
        except FileNotFoundError:
            return None
        return Meta(found["size"], found["e_tag"] or str(found["last_modified"]))

    async def read(self, name: str, begin: int, end: int, tag: str) -> bytes:
        options = {"range": (begin, end), **({"if_match": tag} if tag.startswith('"') else {})}
        answer = await self._told(self._store.get_async(name, options=options))
        data = bytes(await self._told(answer.bytes_async()))
        if len(data) != end - begin:
            raise Failed(
                "source_failed", f"{self._uri}/{name} gave {len(data)} bytes where {end - begin} were asked for"
            )
        return data

    async def names(self) -> list[str]:
        found: list[str] = []
        stream = self._store.list(chunk_size=500)
        while len(found) < 5000:
            try:
                rows = await self._told(stream.__anext__())
            except StopAsyncIteration:
                break
            found += [str(row["path"]) for row in rows]
        below = f"{self._uri.path}/" if self._uri.path else ""
        return [one.removeprefix(below) for one in found]

    async def close(self) -> None: ...

    async def _told(self, act: Awaitable[T]) -> T:
        """FileNotFoundError; everything else as Failed."""
        try:
            return await act
        except FileNotFoundError:
            raise
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
            raise Failed("denied", f"{self._uri} refuses {self._who()}: {_short(error)}") from None
        except exceptions.PreconditionError:
            raise Failed("source_failed", f"{self._uri} changed while it was read") from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            if "403" in str(error) or "401" in str(error):
                raise Failed("denied", f"{self._uri} refuses {self._who()}: {_short(error)}") from None
            raise Failed("source_failed", f"{self._uri} can not be read: {_short(error)}") from None

    def _who(self) -> str:
        return f"the keys of Secret {self._secret}" if self._secret else "the pod's own identity; no Secret was given"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split("\n\nDebug source")[0].split())[:300]
