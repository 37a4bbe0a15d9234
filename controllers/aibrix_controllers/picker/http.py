"""Port 9090: metrics, health, and pages for people. Why not a web framework: five GETs without a body, from inside the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

_SECONDS = 10
_LINES = 100


class Page(NamedTuple):
    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"


_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


async def serve(page: Callable[[str], Page], bind: str, port: int) -> asyncio.Server:
    """`page` gives what stands at a path."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                found = page_for(await reader.readline(), page)
                for _ in range(_LINES):
                    if (await reader.readline()).strip() == b"":
                        break
                writer.write(_head(found) + found.body)
                await writer.drain()
        except (OSError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or asks in another language
        finally:
            writer.close()

    return await asyncio.start_server(answer, bind, port)


def page_for(line: bytes, page: Callable[[str], Page]) -> Page:
    """What answers a request line."""
    parts = line.decode("latin-1").split()
    if len(parts) != 3:
        return Page(400, b"not HTTP/1.1\n")
    if parts[0] != "GET":
        return Page(405, b"GET only\n")
    return page(unquote(parts[1].partition("?")[0]))


def _head(page: Page) -> bytes:
    lines = (
        f"HTTP/1.1 {page.status} {_REASONS[page.status]}",
        f"content-type: {page.kind}",
        f"content-length: {len(page.body)}",
        "connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
