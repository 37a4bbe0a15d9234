"""Constant load on an engine, from inside the cluster's network: `python -m tests.cluster.load URL MODEL --rate R`.

Open loop: a request starts when it is due, whatever happened to the ones before it. Prints one JSON line for each answer
as it ends; ends at SIGTERM, after the answers that are under way (`--patience` seconds without a byte are a failure), with
how many there were in all.
"""

import argparse
import asyncio
import json
import signal
import socket
import time

import httpx

_WAY = ("x-gateway-", "x-request-id")
"""Headers in which a gateway says what way a request took; they are in its line."""
_AWAKE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
]
"""The cluster's network forgets a flow that is silent for 15 s (network.py), and an answer may take longer to begin."""


async def one(client: httpx.AsyncClient, url: str, body: dict[str, object], due: float) -> None:
    """An answer counts as good if it is whole: its usage is there and has as many tokens as were asked for."""
    began, first, said, way = time.monotonic(), 0.0, "", dict[str, str]()
    try:
        async with client.stream("POST", url, json=body) as answer:
            way = {name: text for name, text in answer.headers.items() if name.startswith(_WAY)}
            lines = []
            async for line in answer.aiter_lines():
                first = first or time.monotonic()
                lines.append(line)
            if answer.status_code != 200:
                said = f"HTTP {answer.status_code}: {' '.join(lines)[:200]}"
            else:
                text = (
                    lines[0] if not body["stream"] else [x for x in lines if '"usage"' in x][-1].removeprefix("data: ")
                )
                tokens = json.loads(text)["usage"]["completion_tokens"]
                said = "" if tokens == body["max_tokens"] else f"{tokens} tokens, not {body['max_tokens']}"
    except (httpx.HTTPError, IndexError, ValueError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
    end = time.monotonic()
    row = {
        "at": round(began, 3),
        "seconds": round(end - began, 3),
        "first": round(first - began, 3),
        "late": round(began - due, 3),
    }
    print(json.dumps({**row, **way, "error": said}), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--rate", type=float, default=10.0, help="requests per second")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=600.0, help="at most")
    parser.add_argument("--count", type=float, default=float("inf"), help="requests, at most")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds without a byte")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--pooled", action="store_true", help="keep connections; else each request has its own")
    arguments = parser.parse_args()
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None if arguments.pooled else 0)
    started, running, count = time.monotonic(), set[asyncio.Task[None]](), 0
    transport = httpx.AsyncHTTPTransport(limits=limits, socket_options=_AWAKE)
    headers = dict(one.split("=", 1) for one in arguments.header)
    async with httpx.AsyncClient(
        transport=transport, timeout=arguments.patience, headers=headers, trust_env=False
    ) as client:
        while not ended.is_set() and time.monotonic() - started < arguments.seconds and count < arguments.count:
            due = started + count / arguments.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            streamed = count % 2 == 0
            body: dict[str, object] = {
                "model": arguments.model,
                "max_tokens": arguments.tokens,
                "ignore_eos": True,
                "stream": streamed,
            }
            body |= {"stream_options": {"include_usage": True}} if streamed else {}
            body["messages"] = [{"role": "user", "content": f"question {count} " + "word " * 100}]
            task = asyncio.create_task(one(client, arguments.url, body, due))
            running.add(task)
            task.add_done_callback(running.discard)
            count += 1
        await asyncio.gather(*running)
    print(json.dumps({"started": count}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
