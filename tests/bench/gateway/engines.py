"""Engines as processes: the cheap one that counts its calls, and mocks that stream, hang, die and come back."""

import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.gateway.engine import MODEL
from tests.bench.gateway.routers import answering, launched, where
from tests.bench.gateway.wire import ask_json

ROOT = Path(__file__).parents[3]
PORT = 8000
"""Of every engine."""
_PATHS = os.pathsep.join((str(ROOT / "runtime_images/mock"), str(ROOT)))


def free_addresses(count: int) -> tuple[str, ...]:
    """Loopback addresses with one port for all, as pods have; nobody else is in that network, or the start fails."""
    network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
    return tuple(f"{network}.{number}:{PORT}" for number in range(1, count + 1))


@dataclass(frozen=True, slots=True)
class Counting:
    """One process with several addresses."""

    process: subprocess.Popen[str]
    addresses: tuple[str, ...]

    async def set(self, address: str, **values: object) -> None:
        await ask_json(address, "POST", "/bench/set", values)

    async def calls(self, path: str = "/v1/chat/completions", method: str = "POST") -> dict[str, int]:
        """How often a path was called, by address."""
        pages = {address: await ask_json(address, "GET", "/bench/calls") or {} for address in self.addresses}
        return {address: page.get(f"{method} {path}", 0) for address, page in pages.items()}


@contextmanager
def counting(count: int = 4) -> Iterator[Counting]:
    addresses = free_addresses(count)
    command = [sys.executable, "-m", "tests.bench.gateway.engine", *addresses]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield Counting(process, addresses)
    finally:
        process.kill()
        process.communicate()


class Mocks:
    """Mock engines with tokens of about 20 ms, each a process of its own at an address that it keeps."""

    def __init__(self, folder: Path, stack: ExitStack, count: int) -> None:
        self._folder, self._stack = folder, stack
        self.addresses = free_addresses(count)
        self.processes = {address: self._launch(address) for address in self.addresses}
        for address in self.addresses:
            answering(address, "/health", self.processes[address])

    def _launch(self, address: str) -> subprocess.Popen[bytes]:
        command = [
            "env",
            f"PYTHONPATH={_PATHS}",
            "AIBRIX_MOCK_PROFILE=rtx-4090/8b",
            sys.executable,
            "-m",
            "aibrix_mock",
        ]
        host, port = where(address)
        command += [f"--model={MODEL}", f"--host={host}", f"--port={port}"]
        return self._stack.enter_context(launched(f"mock-{host}", command, self._folder))

    def again(self, address: str) -> float:
        """Starts one that was killed; returns when it answers, and when that was (time.perf_counter)."""
        self.processes[address] = self._launch(address)
        answering(address, "/health", self.processes[address])
        return time.perf_counter()

    def arrived(self, address: str) -> int:
        """Requests since it started, those that run included; it takes no part in what the mock does."""
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            rows = page.read().decode().splitlines()
        names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{", "vllm:request_success_total{")
        return int(sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith(names)))


@contextmanager
def mocks(folder: Path, count: int = 4) -> Iterator[Mocks]:
    with ExitStack() as stack:
        yield Mocks(folder, stack, count)
