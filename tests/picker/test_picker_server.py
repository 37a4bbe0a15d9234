"""The picker as a process: ports, files, signals. The engine is the mock, the gateway a real gRPC client in Envoy's place (the
tests of gateway/ have the real Envoy)."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse
from scenes import Talk

from aibrix_controllers.picker.health import CHECK, NOT_SERVING, SERVING
from aibrix_controllers.picker.server import PROCESS
from tests.bench.mock import engine

SERVICE = {
    "port": 8000,
    "model": "m",
    "pools": {"cpu": {"profile": None, "max_num_seqs": 256}},
    "strategy": "least-kv-cache",
    "metrics": {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "kv_usage": "vllm:kv_cache_usage_perc",
        "cache_config": "vllm:cache_config_info",
    },
}
CONFIG: dict[str, Any] = {"version": "one", "clusters": {"chat": ["chat"]}, "services": {"chat": SERVICE}}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with engine(10) as (found, _):
        yield found


class Process:
    """`python -m aibrix_controllers.picker run` with a folder of its own."""

    def __init__(self, folder: Path, engines: list[str], config: dict[str, Any] = CONFIG) -> None:
        self.config, self.endpoints = folder / "picker.json", folder / "endpoints.json"
        self.config.write_bytes(orjson.dumps(config))
        self.endpoints.write_bytes(orjson.dumps({"chat": [{"address": one, "pool": "cpu"} for one in engines]}))
        command = [sys.executable, "-m", "aibrix_controllers.picker", "run", "--bind", "127.0.0.1"]
        command += ["--config", str(self.config), "--endpoints", str(self.endpoints)]
        command += [part for name in ("grpc", "health", "http", "peer") for part in (f"--{name}-port", "0")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.ports = self.line("ready")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.ports['grpc']}")
        self.health = grpc.insecure_channel(f"127.0.0.1:{self.ports['health']}").unary_unary(CHECK)

    def _read(self) -> None:
        assert self.process.stderr
        for text in self.process.stderr:
            self._lines.put(text)

    def line(self, event: str) -> dict[str, Any]:
        """The next line of the log with this event."""
        while True:
            found: dict[str, Any] = json.loads(self._lines.get(timeout=20))
            if found["event"] == event:
                return found

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until(self, wanted: Callable[[], bool]) -> None:
        limit = time.monotonic() + 20
        while not wanted():
            assert time.monotonic() < limit
            time.sleep(0.05)

    def usable(self) -> None:
        self.until(
            lambda: (
                '"status": "ready"' in self.get("/state")[1]
                and 'report_age_seconds": null' not in self.get("/state")[1]
            )
        )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@pytest.fixture
def picker(tmp_path: Path, port: int) -> Iterator[Process]:
    found = Process(tmp_path, [f"127.0.0.1:{port}"])
    found.usable()
    yield found
    found.process.kill()
    found.process.wait()


class Request:
    """One ext_proc stream over a real channel."""

    def __init__(self, picker: Process, request_id: str = "r1") -> None:
        self._sent: queue.Queue[bytes | None] = queue.Queue()
        self._call = picker.channel.stream_stream(PROCESS)(iter(self._sent.get, None), timeout=30)
        talk = Talk.__new__(Talk)  # its messages, with a channel in place of the state machine
        talk.answers = []
        talk.send = self._send  # type: ignore[method-assign]
        self.talk = talk
        talk.headers(x_request_id=request_id)
        talk.body(b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}')

    def _send(self, request: Any) -> None:
        self._sent.put(request.SerializeToString())
        self.talk.answers.append(ProcessingResponse.FromString(next(self._call)))

    def end(self) -> Any:
        self._sent.put(None)
        assert list(self._call) == []
        return self._call.code()


def test_a_request_from_its_beginning_to_its_end(picker: Process, port: int) -> None:
    request = Request(picker)
    assert request.talk.endpoints == [f"127.0.0.1:{port}"]
    assert request.talk.gateway["strategy"] == "least-kv-cache", "the engine's reports are there"
    assert 'picker_in_flight{service="chat"} 1' in picker.get("/metrics")[1]
    assert request.end() == grpc.StatusCode.OK
    picker.until(lambda: 'picker_in_flight{service="chat"} 0' in picker.get("/metrics")[1])
    assert picker.get("/explain/r1")[1].startswith("request    r1 ")
    assert picker.get("/explain/r2")[0] == 404
    assert picker.get("/nothing")[0] == 404
    found = json.loads(picker.get("/state")[1])["services"]["chat"]["replicas"][f"127.0.0.1:{port}"]
    assert found["kv_tokens"] > 0


def test_explain_asks_from_anywhere(picker: Process) -> None:
    Request(picker, "a/b c").end()
    command = [sys.executable, "-m", "aibrix_controllers.picker", "explain"]
    address = f"--address=127.0.0.1:{picker.ports['http']}"
    done = subprocess.run([*command, "a/b c", address], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("request    a/b c ") and done.stderr == ""
    done = subprocess.run([*command, "other", address], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("no decision about other at 1 picker: ")
    done = subprocess.run([*command, "other", "--address=127.0.0.1:1"], capture_output=True, text=True)
    assert done.returncode == 1 and "127.0.0.1 did not answer" in done.stderr
    done = subprocess.run([*command, "other", "--address=nowhere"], capture_output=True, text=True)
    assert done.returncode == 2


def test_configs_are_read_again_and_bad_ones_are_not_taken(picker: Process) -> None:
    picker.config.write_text("{")
    assert "not JSON" in picker.line("config_rejected")["why"]
    assert Request(picker).talk.status == 0
    text = picker.get("/metrics")[1]
    assert "picker_config_rejected_total 1" in text and 'picker_config_info{version="one"} 1' in text
    picker.config.write_bytes(orjson.dumps(CONFIG | {"version": "two", "services": {"chat": SERVICE | {"model": "n"}}}))
    assert picker.line("config_loaded")["version"] == "two"
    assert Request(picker).talk.status == 503
    assert 'picker_config_info{version="two"} 1' in picker.get("/metrics")[1]


def test_sigterm_serves_on_until_the_last_request_has_ended(picker: Process) -> None:
    assert picker.health(b"", timeout=10) == SERVING and picker.get("/readyz") == (200, "ready\n")
    request = Request(picker)
    picker.process.send_signal(signal.SIGTERM)
    assert picker.line("draining")["streams"] == 1
    assert picker.health(b"", timeout=10) == NOT_SERVING
    assert picker.get("/readyz")[0] == 503 and picker.get("/healthz")[0] == 200
    late = Request(picker)
    assert late.talk.endpoints
    assert request.end() == late.end() == grpc.StatusCode.OK
    assert picker.process.wait(10) == 0


def test_it_is_ready_when_it_has_looked_and_not_before(tmp_path: Path) -> None:
    """No engine at all: it serves, and says 503 itself."""
    process = Process(tmp_path, [])
    try:
        assert process.get("/readyz")[0] == 200
        request = Request(process)
        assert request.talk.status == 503
        request.end()
    finally:
        assert process.stop() == 0


def test_a_port_that_is_taken_is_one_line(picker: Process, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "aibrix_controllers.picker",
        "run",
        "--bind=127.0.0.1",
        f"--config={picker.config}",
    ]
    command += [f"--endpoints={picker.endpoints}", f"--grpc-port={picker.ports['grpc']}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "address already in use" in done.stderr and done.stderr.count("\n") == 1
