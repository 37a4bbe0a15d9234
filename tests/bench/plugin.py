"""What it costs an engine to tell its load: gaps between tokens of a real vLLM on CPU, alone, with our plugin, and with its page
of metrics read instead.

`python -m tests.bench.plugin [--rounds 3] [--streams 4]`. Two engines take turns, one with the plugin and a listener, one without;
each is asked for the same streams while nobody, or somebody, reads its page. One machine has both, so compare within a line.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import httpx

from aibrix_runtime import plugin
from tests.engine import lora_model, server, venv

TOKENS = 150


def gaps(port: int) -> list[float]:
    """Seconds between the tokens of one stream."""
    body = {
        "model": "m",
        "prompt": "w1 w2 w3",
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    times = []
    with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)]


@contextmanager
def reading(port: int, pause: float) -> Iterator[None]:
    """The page of metrics is read with this pause; 0: never."""
    stop = threading.Event()

    def read() -> None:
        with httpx.Client() as client:
            while pause and not stop.wait(pause):
                with suppress(httpx.TransportError):
                    client.get(f"http://127.0.0.1:{port}/metrics")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def listening(path: Path) -> Iterator[Callable[[], int]]:
    """A sidecar's ear; how many datagrams came."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    line.bind(str(path))
    line.settimeout(0.1)
    count, stop = [0], threading.Event()

    def hear() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                line.recv(65536)
                count[0] += 1

    thread = threading.Thread(target=hear)
    thread.start()
    try:
        yield lambda: count[0]
    finally:
        stop.set()
        thread.join()
        line.close()


def measured(port: int, streams: int, pause: float) -> list[float]:
    with reading(port, pause), ThreadPoolExecutor(streams) as pool:
        return [gap for found in pool.map(gaps, [port] * streams) for gap in found]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.plugin", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=4)
    options = parser.parse_args(arguments)
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = lora_model.write(folder / "model")
        plugin.install(folder / "plugins")
        told = {"PYTHONPATH": str(folder / "plugins"), "AIBRIX_LOAD_SOCKET": str(folder / "load.sock")}
        flags = (*lora_model.FLAGS, "--served-model-name", "m")
        with (
            listening(folder / "load.sock") as heard,
            server.engine(venv.python(), model, flags) as alone,
            server.engine(venv.python(), model, flags, told) as telling,
        ):
            cases = (
                ("alone", alone.port, 0.0),
                ("with the plugin", telling.port, 0.0),
                ("its page read once a second", alone.port, 1.0),
                ("its page read 10 times a second", alone.port, 0.1),
                ("its page read 20 times a second, as often as the plugin tells", alone.port, 0.05),
            )
            for port in (alone.port, telling.port):
                measured(port, options.streams, 0)
            for number in range(options.rounds):
                for title, port, pause in cases[number % 2 :] + cases[: number % 2]:
                    found.setdefault(title, []).append(measured(port, options.streams, pause))
            datagrams = heard()
    print(
        f"vLLM {venv.VLLM} on one core, {options.streams} streams of {TOKENS} tokens, {options.rounds} rounds, {os.cpu_count()} cores"
    )
    print("| | gap mean | p50 | p99 |")
    print("|---|---|---|---|")
    for title, rounds in found.items():
        rows = sorted(gap for one in rounds for gap in one)
        mean = statistics.median(statistics.fmean(one) for one in rounds)
        tail = rows[int(len(rows) * 0.99)]
        print(f"| {title} | {mean * 1000:.2f} ms | {rows[len(rows) // 2] * 1000:.2f} ms | {tail * 1000:.2f} ms |")
    print(f"{datagrams} datagrams")


if __name__ == "__main__":
    main()
