"""What the mock engine costs: `python -m tests.bench.mock`. It prints figures and asserts nothing about time.

The client is a bare asyncio one, because httpx needs more CPU for a request than the engine does; client and engine share
the machine, and `CPU/request` is the engine's alone.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BODY = {"model": "m", "max_tokens": 16, "messages": [{"role": "user", "content": "x" * 1000}]}


@contextmanager
def engine(speed: float) -> Iterator[tuple[int, int]]:
    """(port, pid) of a mock whose simulated time runs `speed` times as fast."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join((str(ROOT / "runtime_images/mock"), str(ROOT)))
    environment = os.environ | {"PYTHONPATH": path, "AIBRIX_MOCK_SPEED": str(speed)}
    command = [sys.executable, "-m", "aibrix_mock", "--model=m", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        started = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.005)
        print(f"ready after {time.monotonic() - started:.2f} s, {memory(process.pid):.0f} MB")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def memory(pid: int) -> float:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS")) / 1000


def cpu(pid: int) -> float:
    """Seconds of user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request(body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def whole(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)


async def chunks(reader: asyncio.StreamReader) -> int:
    """HTTP chunks of one streamed answer."""
    await reader.readuntil(b"\r\n\r\n")
    count = 0
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
        count += 1
    await reader.readexactly(2)
    return count


async def short(port: int, connections: int, total: int) -> float:
    """Seconds for `total` answers over so many connections."""
    data, left = request(BODY), iter(range(total))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(data)
            await whole(reader)
        writer.close()

    start = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return time.monotonic() - start


async def streams(port: int, count: int, tokens: int) -> tuple[float, int]:
    """Seconds until `count` simultaneous streams of `tokens` tokens have ended, and their chunks."""
    data = request(BODY | {"stream": True, "max_tokens": tokens})

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        writer.write(data)
        made = await chunks(reader)
        writer.close()
        return made

    start = time.monotonic()
    made = await asyncio.gather(*(one() for _ in range(count)))
    return time.monotonic() - start, sum(made)


def main() -> None:
    print("short requests, 1 KB prompt, 16 tokens, not streamed, speed 1000")
    with engine(1000) as (port, pid):
        for connections in (1, 16, 64):
            total = 3000 if connections > 1 else 1000
            before = cpu(pid)
            seconds = asyncio.run(short(port, connections, total))
            used = (cpu(pid) - before) / total
            print(
                f"  {connections:3d} connections: {total / seconds:6.0f}/s, {used * 1e6:.0f} us CPU/request = {1 / used:.0f}/s a core"
            )
        print(f"  {memory(pid):.0f} MB afterwards")
    print("256 streams of 400 tokens, H100 / 8B")
    for speed in (1, 10):
        with engine(speed) as (port, pid):
            before = cpu(pid)
            seconds, made = asyncio.run(streams(port, 256, 400))
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
            simulated = (
                next(
                    float(r.split()[-1])
                    for r in page.splitlines()
                    if r.startswith("vllm:e2e_request_latency_seconds_sum")
                )
                / 256
            )
            share = (cpu(pid) - before) / seconds
            print(
                f"  speed {speed:2d}: {seconds:.2f} s, simulated {simulated / speed:.2f} s, {made / 256:.0f} chunks each, {share:.0%} of a core"
            )


if __name__ == "__main__":
    main()
