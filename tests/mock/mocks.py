"""Mock engines as processes, and adapters on a disk."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
PATHS = (ROOT / "runtime_images/mock", ROOT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Make = Callable[..., "Mock"]
"""Of the fixture `start`."""


class Mock:
    """One engine. `speed` 10 makes tokens of 1.1 ms instead of 11."""

    def __init__(
        self,
        *flags: str,
        speed: float = 10,
        paths: tuple[Path, ...] = PATHS,
        wait: bool = True,
        at: tuple[str, int] | None = None,
        served: str = "base",
        **variables: str,
    ) -> None:
        self.host, self.port = at or ("127.0.0.1", free_port())
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AIBRIX_MOCK_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "AIBRIX_MOCK_SPEED": str(speed),
            "AIBRIX_MOCK_FAULTS": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            **variables,
        }
        command = [sys.executable, "-m", "aibrix_mock", "--model=org/base", f"--served-model-name={served}", *flags]
        command += [f"--host={self.host}", f"--port={self.port}"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self.process = subprocess.Popen(command, env=environment, stderr=self._log)
        self.url = f"http://{self.host}:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=20)
        if wait:
            self.ready()

    def ready(self) -> None:
        limit = time.monotonic() + 15
        while True:
            try:
                assert self.http.get("/health").status_code == 200
                return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < limit
                time.sleep(0.02)

    def complete(self, prompt: str = "hello", **fields: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 4} | fields)

    def chat(self, text: str = "hello", **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4}
        return self.http.post("/v1/chat/completions", json=body | fields)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of that name with these labels."""
        total = 0.0
        for row in self.http.get("/metrics").text.splitlines():
            head, _, value = row.rpartition(" ")
            if head.partition("{")[0] == name and all(f'{key}="{text}"' in head for key, text in labels.items()):
                total += float(value)
        return total

    def until(self, name: str, value: float, seconds: float = 5, **labels: str) -> None:
        limit = time.monotonic() + seconds
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < limit, f"{name} is {found}, not {value}"
            time.sleep(0.02)

    def fault(self, kind: str, value: float = 0) -> None:
        assert self.http.post("/mock/fault", json={"kind": kind, "value": value}).status_code == 200

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._log.close()

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()


def events(text: str) -> list[Any]:
    """Of a stream; the last one is [DONE]."""
    rows = [row.removeprefix("data: ") for row in text.split("\n\n") if row]
    assert rows[-1] == "[DONE]"
    return [json.loads(row) for row in rows[:-1]]


def adapter(folder: Path, rank: int = 8, layer: str = "q_proj", cut: int = 0) -> Path:
    """A LoRA in PEFT's layout with one pair of tensors; `cut` bytes are missing at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "target_modules": [layer]}))
    names = [f"base_model.model.model.layers.0.self_attn.{layer}.lora_{half}.weight" for half in "AB"]
    header = {
        name: {"dtype": "F32", "shape": [4, 4], "data_offsets": [64 * index, 64 * index + 64]}
        for index, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(128)
    (folder / "adapter_model.safetensors").write_bytes(data[: len(data) - cut])
    return folder
