"""Clients that keep calling while a test changes something, and what they were answered."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx


@contextmanager
def steady(
    client: httpx.Client, body: Mapping[str, Any], *, threads: int = 1, pause: float = 0.005
) -> Iterator[Callable[[], list[int]]]:
    """Calls until the context ends; yields the statuses so far, 0 for a call that the connection did not survive."""
    statuses: list[int] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                statuses.append(client.post("/v1/chat/completions", json=body).status_code)
            except httpx.TransportError:
                statuses.append(0)
            time.sleep(pause)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield lambda: list(statuses)
    finally:
        stop.set()
        for worker in workers:
            worker.join(40)
        client.close()
