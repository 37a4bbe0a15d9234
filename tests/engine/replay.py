"""Open-loop load on an engine's /v1/completions, and the log of it that `simulate calibrate` reads.

A request is sent when it is due, whatever became of those before it, and its times count from when it was due. Prompts are token
ids, all different, and answers have exactly as many tokens as were asked for; an answer that has not is an error, not a row.
The client is a bare asyncio one, because it shares a core with the engine's front end.
"""

import asyncio
import csv
import json
import time
from collections.abc import Sequence
from math import log
from pathlib import Path
from random import Random

from aibrix_compile.simulate.measured import COLUMNS, Measured
from aibrix_compile.simulate.trace import Request

PROMPT, ANSWER = (64, 512), (16, 128)
"""Shortest and longest, tokens; all between are equally likely."""
_LEAD_S = 0.2
_WORDS = range(2, 1000)
"""Token ids that any model has and that end nothing in the tests' own."""


class Wrong(Exception):
    """The engine did not answer as asked."""


def poisson(rate: float, count: int, seed: int) -> list[Request]:
    """Arrivals without memory, `rate` a second on average; 0: all at once."""
    draw, at, found = Random(seed).random, 0.0, []
    for _ in range(count):
        at -= log(1 - draw()) / rate if rate else 0.0
        found.append(Request(round(at * 1e6), _between(*PROMPT, draw()), _between(*ANSWER, draw())))
    return found


def _between(low: int, high: int, share: float) -> int:
    return low + int(share * (high - low + 1))


async def replay(
    port: int, model: str, requests: Sequence[Request], limit_s: float = 600
) -> tuple[list[Measured], float]:
    """What the engine did, by arrival, and by how many seconds the client was late at worst. `Wrong` if one answer is not what
    was asked for or does not end in `limit_s`."""
    began = time.monotonic() + _LEAD_S
    late = 0.0

    async def one(index: int, request: Request) -> Measured:
        nonlocal late
        due = began + request.at / 1e6
        await asyncio.sleep(due - time.monotonic())
        late = max(late, time.monotonic() - due)
        first, last = await _answer(port, _body(model, index, request), request)
        return Measured(request, round((first - due) * 1e6), round((last - due) * 1e6))

    tasks = [asyncio.create_task(one(index, request)) for index, request in enumerate(requests)]
    try:
        async with asyncio.timeout(requests[-1].at / 1e6 + limit_s):
            return list(await asyncio.gather(*tasks)), late
    except TimeoutError:
        raise Wrong(f"some answers did not end in {limit_s:.1f} s") from None
    except OSError as error:
        raise Wrong(f"the engine is gone: {error}") from None
    finally:
        for task in tasks:
            task.cancel()


def _body(model: str, index: int, request: Request) -> dict[str, object]:
    draw = Random(index).random
    prompt = [_WORDS[int(draw() * len(_WORDS))] for _ in range(request.input)]
    exact = {"max_tokens": request.output, "min_tokens": request.output, "ignore_eos": True, "temperature": 0}
    return {"model": model, "prompt": prompt, "stream": True, "stream_options": {"include_usage": True}, **exact}


async def _answer(port: int, body: dict[str, object], request: Request) -> tuple[float, float]:
    """When its first and its last token came, on the monotonic clock."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            raise Wrong(f"{status.decode().strip()}: {(await reader.read(2000)).decode(errors='replace')}")
        first = last = 0.0
        usage: dict[str, int] = {}
        async for line in reader:  # chunks' sizes and blank lines between them say nothing
            if not line.startswith(b"data: {"):
                continue
            now = time.monotonic()
            if b'"choices":[]' in line:
                usage = json.loads(line[6:])["usage"]
            else:
                first, last = first or now, now
    finally:
        writer.close()
    asked = (request.input, request.output)
    if (found := (usage.get("prompt_tokens"), usage.get("completion_tokens"))) != asked:
        raise Wrong(f"(prompt, answer) was to have {asked} tokens and has {found}")
    return first, last


def write(path: Path, log_: Sequence[Measured]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for one in log_:
            at, ttft, e2e = (f"{value / 1e6:.6f}" for value in (one.request.at, one.ttft, one.e2e))
            rows.writerow((at, one.request.input, one.request.output, ttft, e2e))
