"""https://, one folder of a web server. Why not a general client's defaults: a redirect may lead anywhere, and a compressed answer
may become anything."""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp

from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Meta
from aibrix_runtime.fetch.uris import Uri

_TIMES = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=20)
_REDIRECTS = 3


class Web:
    """`token` goes out as a bearer token; `secret` is its Secret's name, for messages."""

    def __init__(self, uri: Uri, token: str, secret: str = "") -> None:
        self._uri, self._secret, self._base = uri, secret, f"https://{uri.host}/{uri.path}"
        headers = {"accept-encoding": "identity", **({"authorization": f"Bearer {token}"} if token else {})}
        self._session = aiohttp.ClientSession(
            timeout=_TIMES, headers=headers, auto_decompress=False, max_line_size=16384, max_field_size=16384
        )

    async def head(self, name: str) -> Meta | None:
        try:
            answer = await self._ask("HEAD", name)
        except FileNotFoundError:
            return None
        answer.release()
        length = answer.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            raise Failed("source_failed", f"{self._base}/{name} does not say how large it is")
        return Meta(int(length), answer.headers.get("etag") or answer.headers.get("last-modified") or "")

    async def read(self, name: str, begin: int, end: int, tag: str) -> bytes:
        headers = {"range": f"bytes={begin}-{end - 1}", **({"if-range": tag} if tag.startswith('"') else {})}
        try:
            answer = await self._ask("GET", name, headers)
        except FileNotFoundError:
            raise Failed("source_failed", f"{self._base}/{name} vanished while it was read") from None
        try:
            ranged = answer.headers.get("content-range", "").startswith(f"bytes {begin}-{end - 1}/")
            if not (answer.status == 206 and ranged) and not (answer.status == 200 and begin == 0):
                raise Failed("source_failed", f"{self._base}/{name} gives no ranges, or changed while it was read")
            parts, size = [], 0
            async for part in answer.content.iter_any():
                parts.append(part)
                size += len(part)
                if size >= end - begin:
                    break
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Failed("source_failed", f"{self._base}/{name} broke off: {error or type(error).__name__}") from None
        finally:
            answer.close() if answer.status == 200 else answer.release()
        data = b"".join(parts)[: end - begin]
        if len(data) != end - begin:
            raise Failed("source_failed", f"{self._base}/{name} broke off after {len(data)} of {end - begin} bytes")
        return data

    async def names(self) -> list[str]:
        return []  # a web server has no list of a folder

    async def close(self) -> None:
        await self._session.close()

    async def _ask(self, method: str, name: str, headers: dict[str, str] | None = None) -> aiohttp.ClientResponse:
        """A good answer, after redirects on one host. FileNotFoundError."""
        url = f"{self._base}/{name}"
        for _ in range(_REDIRECTS + 1):
            try:
                answer = await self._session.request(method, url, headers=headers, allow_redirects=False)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                raise Failed("source_failed", f"{url} does not answer: {error or type(error).__name__}") from None
            if answer.status in (301, 302, 303, 307, 308):
                answer.release()
                url = self._there(url, answer.headers.get("location", ""))
                continue
            return self._good(answer, url)
        raise Failed("source_failed", f"{self._base}/{name} redirects more than {_REDIRECTS} times")

    def _there(self, url: str, location: str) -> str:
        to = urlsplit(location)
        if not location.startswith("/") or location.startswith("//"):
            if to.scheme != "https" or to.netloc.lower() != self._uri.host:
                raise Failed(
                    "source_failed", f"{url} redirects to {to.scheme}://{to.netloc}: another place than was allowed"
                )
            return location
        return f"https://{self._uri.host}{location}"

    def _good(self, answer: aiohttp.ClientResponse, url: str) -> aiohttp.ClientResponse:
        if answer.status in (200, 206) and answer.headers.get("content-encoding", "identity") == "identity":
            return answer
        answer.release()
        if answer.status in (404, 410):
            raise FileNotFoundError(url)
        if answer.status in (401, 403):
            who = (
                f"the token of Secret {self._secret}"
                if self._secret
                else "a request without a token; no Secret was given"
            )
            raise Failed("denied", f"{url} refuses {who}: {answer.status}")
        if answer.status in (200, 206):
            raise Failed("source_failed", f"{url} is answered compressed, which was not asked for")
        raise Failed("source_failed", f"{url} answers {answer.status}")
