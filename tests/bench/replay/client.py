"""Requests of a trace as bytes on sockets, at the trace's times, and when each answer began and ended.

Why a client of its own: a request must leave at its time however late others are, and the first token must be seen in the
moment in which it comes. A prompt is made of its blocks' ids, so that prompts share exactly the bytes whose ids they share.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from aibrix_compile.simulate.trace import Request
from tests.bench.gateway.wire import Answer, Connection, post

TOKEN_BYTES = 4
"""Of the mock engine."""
_LEAD_S = 0.5  # until the first request leaves: tasks of the start are done by then


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of simulated time since the request left; `late`: real seconds that it left after it was due, which is this
    machine's fault and not the gateway's."""

    ttft: float
    e2e: float
    late: float
    failed: str = ""


class _Timed(Connection):
    """Knows when the first byte of an answer's body came."""

    first = 0.0

    def on_body(self, body: bytes) -> None:
        self.first = self.first or time.perf_counter()
        super().on_body(body)


def prompt(request: Request, block_tokens: int) -> bytes:
    """Its text: `TOKEN_BYTES` a token, equal for equal blocks."""
    half = block_tokens * TOKEN_BYTES // 2
    text = "".join([hashlib.shake_128(b"%d" % block).hexdigest(half) for block in request.blocks])
    return text[: request.input * TOKEN_BYTES].encode()


def body(request: Request, block_tokens: int, model: str) -> bytes:
    """A completion of exactly the trace's number of tokens, streamed."""
    head = b'{"model":"%s","max_tokens":%d,"ignore_eos":true,"stream":true,"prompt":"'
    return head % (model.encode(), request.output) + prompt(request, block_tokens) + b'"}'


async def replay(url: str, model: str, requests: Sequence[Request], block_tokens: int, speed: float) -> list[Outcome]:
    """All of them, `speed` times as fast as their times say; ends with the last answer."""
    place = urlsplit(url)
    start, tasks = time.perf_counter() + _LEAD_S, []
    for request in requests:
        due = start + request.at / 1e6 / speed
        data = post({"connection": "close"}, body(request, block_tokens, model), "/v1/completions")
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(_one(str(place.hostname), place.port or 80, data, due, speed)))
    return await asyncio.gather(*tasks)


async def _one(host: str, port: int, data: bytes, due: float, speed: float) -> Outcome:
    _, connection = await asyncio.get_running_loop().create_connection(_Timed, host, port)
    answer = await connection.ask(data)
    connection.close()
    waited, whole = connection.first - answer.sent, answer.ended - answer.sent
    return Outcome(waited * speed, whole * speed, answer.sent - due, _failure(answer))


def _failure(answer: Answer) -> str:
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:200]!r}"
    return "" if answer.whole and answer.body.rstrip().endswith(b"data: [DONE]") else "the answer is not whole"
