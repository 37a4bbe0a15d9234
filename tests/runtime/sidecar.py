"""A sidecar as a process, beside an engine that is already there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from aibrix_compile.policy.lora import Base
from tests.mock.mocks import ROOT, free_port
from tests.runtime import buckets

LLAMA = Base(32, 4096, 32, 8, 128, 14336, 128256)
METRICS = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "cache_config": "vllm:cache_config_info",
    "ttft": "vllm:time_to_first_token_seconds",
    "prompt_tokens": "vllm:prompt_tokens_total",
}
READER, LOADER = "reader", "loader"
"""Tokens with one right, and with both."""


class Sidecar:
    """`folder` has its adapters, its run folder and its Secrets; `allow` are prefixes of uris."""

    def __init__(
        self,
        folder: Path,
        engine: str,
        *,
        allow: tuple[str, ...] = ("s3://adapters/",),
        endpoint: str = "",
        base: Base = LLAMA,
        model: str = "base",
        kind: str = "mock",
        at: tuple[str, int] | None = None,
        claims: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        **limits: int,
    ) -> None:
        self.folder = folder
        self.host, self.port = at or ("127.0.0.1", free_port())
        self.adapters, self.run = folder / "adapters", folder / "run"
        (folder / "secrets/s3").mkdir(parents=True, exist_ok=True)
        for key, text in buckets.KEYS.items():
            (folder / "secrets/s3" / key).write_text(text)
        (folder / "tokens").write_text(f"{READER} read\n{LOADER} read,load\n")
        self.config: dict[str, Any] = {
            "engine": {"kind": kind, "url": engine, "model": model},
            "base": {name: getattr(base, name) for name in Base.__slots__},
            "adapters": {
                "max_loaded": 2,
                "max_cached": 4,
                "max_rank": 16,
                "disk_bytes": 10**8,
                "max_bytes": 10**7,
                **limits,
                "folder": str(self.adapters),
                "allow": list(allow),
            },
            "metrics": METRICS,
            "storage": {"s3": {"endpoint": endpoint, "region": "us-east-1"} if endpoint else None},
            "claims": claims or {},
            "models": {"folder": str(folder / "models"), "allow": list(allow)},
            "access": {"audience": "aibrix-runtime", "subjects": {}},
        }
        self.configure()
        self._variables = variables or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"http://{self.host}:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, headers={"authorization": f"Bearer {LOADER}"})
        self.start()

    def configure(self, **changed: Any) -> None:
        """Writes runtime.json; a running sidecar reads it again."""
        self.config |= changed
        fresh = self.folder / "runtime.json.new"
        fresh.write_text(json.dumps(self.config))
        fresh.replace(self.folder / "runtime.json")

    def command(self) -> list[str]:
        words = [sys.executable, "-m", "aibrix_runtime", "run", "--config", str(self.folder / "runtime.json")]
        words += ["--bind", self.host, "--port", str(self.port), "--run", str(self.run)]
        return [*words, "--token-file", str(self.folder / "tokens"), "--secrets", str(self.folder / "secrets")]

    def start(self) -> None:
        path = f"{ROOT / 'runtime_images/runtime'}{os.pathsep}{ROOT}"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=os.environ | {"PYTHONPATH": path} | self._variables, stdout=log, stderr=log
            )
        wait(self._alive, "the sidecar answers", lambda: (self.folder / "log").read_text())

    def _alive(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines() if line.startswith("{")]

    # --- requests

    def load(self, name: str, uri: str = "", **more: Any) -> httpx.Response:
        body = {"lora_name": name, "lora_path": uri or f"s3://adapters/{name}"}
        body |= {"credentials": {"secret": "s3", "key": "token"}} if body["lora_path"].startswith("s3:") else {}
        return self.http.post("/v1/lora_adapter/load", json=body | more)

    def unload(self, name: str, **more: Any) -> httpx.Response:
        return self.http.post("/v1/lora_adapter/unload", json={"lora_name": name, **more})

    def line(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/v1/load").json()
        return found

    def announced(self) -> dict[str, str]:
        """Name -> digest."""
        return {one["name"]: one["digest"] for one in self.line()["adapters"]}

    def ready(self) -> None:
        wait(lambda: self.http.get("/readyz").status_code == 200, "it is ready", lambda: self.http.get("/readyz").text)


def code(answer: httpx.Response) -> str:
    """Of an error; the status of anything else."""
    return str(answer.json()["error"]["code"]) if answer.status_code >= 400 else str(answer.status_code)


def wait(done: Callable[[], Any], what: str, why: Callable[[], str] = lambda: "", seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s {why()}"
        time.sleep(0.05)


@contextmanager
def beside(folder: Path, engine: str, **settings: Any) -> Iterator[Sidecar]:
    found = Sidecar(folder, engine, **settings)
    try:
        yield found
    finally:
        found.stop(signal.SIGKILL)
        found.http.close()
