"""Requests that no client library would send, as bytes on a socket."""

import http.client
import socket
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """`status` 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(url: str, *parts: bytes, seconds: float = 10) -> Answer:
    """The first answer to these bytes; each part leaves on its own."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 80), seconds) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (ConnectionResetError, BrokenPipeError):
            pass  # refused early; its answer may be there
        answer = http.client.HTTPResponse(connection, method=parts[0].partition(b" ")[0].decode("latin-1"))
        try:
            answer.begin()
            body = answer.read()
        except (ConnectionResetError, http.client.RemoteDisconnected):
            return Answer(0, {}, b"")
        return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, body)


def post(target: str, body: bytes, *headers: str, method: str = "POST", length: bool = True) -> bytes:
    """A request's bytes; `headers` are lines."""
    lines = [f"{method} {target} HTTP/1.1", "host: llm.example.com", "content-type: application/json", *headers]
    if length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
