"""The preStop script, run for real against a server that speaks vLLM's metrics."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from aibrix_compile.passes.pod import DRAIN_SCRIPT


class Engine(BaseHTTPRequestHandler):
    busy: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        left = Engine.busy.pop(0) if Engine.busy else 0
        page = (
            "# HELP vllm:num_requests_running Number of requests\n# TYPE vllm:num_requests_running gauge\n"
            f'vllm:num_requests_running{{engine="0",model_name="m"}} {float(left)}\n'
            'vllm:num_requests_waiting{engine="0",model_name="m"} 0.0\n'
            'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0\n'
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def drain(port: int, propagation: float, limit: float) -> float:
    """Seconds that the script takes."""
    script = DRAIN_SCRIPT.replace(":8000", f":{port}")
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, str(propagation), str(limit)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0 and done.stderr == ""
    return time.monotonic() - start


def test_it_waits_until_no_request_is_left(port: int) -> None:
    Engine.busy = [2, 1, 1]
    assert drain(port, 0, 20) >= 3
    assert Engine.busy == []


def test_one_idle_moment_is_not_the_end(port: int) -> None:
    Engine.busy = [1, 0, 1]
    drain(port, 0, 20)
    assert Engine.busy == []


def test_it_gives_up_at_the_limit(port: int) -> None:
    Engine.busy = [1] * 100
    assert 2 <= drain(port, 0, 2) < 5


def test_it_first_waits_for_endpoints_to_forget_the_pod(port: int) -> None:
    Engine.busy = []
    assert drain(port, 1.5, 20) >= 1.5


def test_a_dead_engine_holds_nothing_up() -> None:
    assert drain(9, 0, 20) < 3
