"""Our sidecar beside AIBrix's runtime on the same mock engine and the same bucket: `python -m tests.bench.sidecars`.

Prints start time, memory, how long loads and unloads take, the metrics page, and what each answers when something is wrong.
Asserts nothing. The peer lies in a virtual environment of its own in the cache folder; without it only ours is printed.
"""

import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import peers
from tests.mock.mocks import ROOT, Mock, free_port
from tests.runtime import buckets, written

ADAPTERS = 50


class Answer(NamedTuple):
    status: int
    text: str
    seconds: float


class Sidecar:
    """A process with the two requests that both understand. `slash`: what the peer wants at the end of an s3 uri."""

    name, slash = "", ""

    def __init__(self, engine: Mock, endpoint: str, folder: Path) -> None:
        self.engine, self.endpoint, self.folder, self.port = engine, endpoint, folder, free_port()
        folder.mkdir()
        began = time.perf_counter()
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(self.command(), env=self.environment(), stdout=log, stderr=log, cwd=folder)
        while self.ask("GET", "/healthz").status != 200:
            assert self.process.poll() is None, (folder / "log").read_text()
            time.sleep(0.005)
        self.started = time.perf_counter() - began

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        raise NotImplementedError

    def load(self, name: str, uri: str) -> Answer:
        raise NotImplementedError

    def unload(self, name: str) -> Answer:
        return self.ask("POST", "/v1/lora_adapter/unload", {"lora_name": name})

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"content-type": "application/json", "authorization": "Bearer bench"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            found = connection.getresponse()
            text = found.read().decode()
            return Answer(found.status, text, time.perf_counter() - began)
        except OSError as error:
            return Answer(0, repr(error), time.perf_counter() - began)
        finally:
            connection.close()

    def memory(self) -> float:
        """Resident, MB."""
        rows = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS")) / 1000

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Ours(Sidecar):
    name = "ours"

    def command(self) -> list[str]:
        (self.folder / "secrets/s3").mkdir(parents=True)
        for key, text in buckets.KEYS.items():
            (self.folder / "secrets/s3" / key).write_text(text)
        (self.folder / "tokens").write_text("bench read,load\n")
        limits = {"max_loaded": 8, "max_cached": 400, "max_rank": 16, "disk_bytes": 10**9, "max_bytes": 10**8}
        base = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "intermediate": 14336}
        config = {
            "engine": {"kind": "mock", "url": self.engine.url, "model": "base"},
            "base": base | {"vocab": 128256, "experts": 0, "mla": False},
            "adapters": limits | {"folder": str(self.folder / "adapters"), "allow": ["s3://adapters/"]},
            "metrics": {"running": "vllm:num_requests_running", "waiting": "vllm:num_requests_waiting"}
            | {"kv_usage": "vllm:kv_cache_usage_perc", "cache_config": "vllm:cache_config_info"},
            "storage": {"s3": {"endpoint": self.endpoint, "region": "us-east-1"}},
            "claims": {},
            "models": {"folder": str(self.folder / "models"), "allow": []},
            "access": {"audience": "aibrix-runtime", "subjects": {}},
        }
        (self.folder / "runtime.json").write_text(json.dumps(config))
        words = [sys.executable, "-m", "aibrix_runtime", "run", "--config", str(self.folder / "runtime.json")]
        words += ["--bind", "127.0.0.1", "--port", str(self.port), "--run", str(self.folder / "run")]
        return [*words, "--token-file", str(self.folder / "tokens"), "--secrets", str(self.folder / "secrets")]

    def environment(self) -> dict[str, str]:
        (self.folder / "run").mkdir()
        return os.environ | {"PYTHONPATH": f"{ROOT / 'runtime_images/runtime'}{os.pathsep}{ROOT}"}

    def load(self, name: str, uri: str) -> Answer:
        body = {"lora_name": name, "lora_path": uri, "credentials": {"secret": "s3", "key": "token"}}
        return self.ask("POST", "/v1/lora_adapter/load", body)


class Theirs(Sidecar):
    name, slash = f"AIBrix {peers.AIBRIX}", "/"

    def command(self) -> list[str]:
        shutil.rmtree("/tmp/aibrix/adapters", ignore_errors=True)  # where it always puts them
        python = peers.aibrix()
        assert python is not None
        return [str(python), "-m", "aibrix.app", "--host", "127.0.0.1", "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        engine = {"INFERENCE_ENGINE_ENDPOINT": self.engine.url, "INFERENCE_ENGINE_VERSION": "0.6.1"}
        store = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1", **buckets.KEYS}
        return os.environ | engine | store | {"PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics")}

    def load(self, name: str, uri: str) -> Answer:
        body = {"lora_name": name, "artifact_url": uri, "credentials": buckets.KEYS | {"endpoint_url": self.endpoint}}
        return self.ask("POST", "/v1/lora_adapter/load", body | {"additional_config": {"region_name": "us-east-1"}})


def fill(endpoint: str, source: Path) -> None:
    for number in range(ADAPTERS):
        buckets.put(endpoint, "adapters", f"a{number}", written.adapter(source / f"a{number}", seed=number))
    buckets.put(endpoint, "adapters", "wide", written.adapter(source / "wide", rank=64))
    buckets.put(endpoint, "adapters", "other-base", written.adapter(source / "other", modules={"q_proj": (64, 64)}))


def series(page: str) -> tuple[int, int]:
    """Series of a metrics page, and how many of them stand there more than once."""
    names = Counter(row.rpartition(" ")[0] for row in page.splitlines() if row and not row.startswith("#"))
    return len(names), sum(count > 1 for count in names.values())


def figures(one: Sidecar) -> dict[str, str]:
    found = {"start, s": f"{one.started:.2f}", "memory idle, MB": f"{one.memory():.0f}"}

    def timed(what: str, act: Callable[[str], Answer]) -> None:
        answers = [act(f"a{number}") for number in range(ADAPTERS)]
        good = sorted(answer.seconds * 1000 for answer in answers if answer.status == 200)
        failed = f", {ADAPTERS - len(good)} failed: {answers[-1].text[:80]}" if len(good) < ADAPTERS else ""
        found[what] = (
            f"{statistics.median(good):.0f} / {good[int(0.99 * len(good))]:.0f}{failed}" if good else failed[2:]
        )

    def fetch(name: str) -> Answer:
        return one.load(name, f"s3://adapters/{name}{one.slash}")

    timed("load from s3, ms p50 / p99", fetch)
    timed("unload, ms", one.unload)
    timed("load again, ms", fetch)
    found["memory then, MB"] = f"{one.memory():.0f}"
    page = one.ask("GET", "/metrics")
    count, double = series(page.text)
    found["metrics page"] = f"{len(page.text) // 1000} kB, {count} series, {double} twice, {page.seconds * 1000:.0f} ms"
    return found


def faults(one: Sidecar) -> dict[str, str]:
    """What is answered when something is wrong, and what is left of it."""

    def said(answer: Answer) -> str:
        return f"{answer.status} {answer.text[:110]}"

    found = {"unload of an unknown name": said(one.unload("nobody"))}
    found["rank 64 where 16 is allowed"] = said(one.load("wide", f"s3://adapters/wide{one.slash}"))
    found["shapes of another model"] = said(one.load("other", f"s3://adapters/other-base{one.slash}"))
    found["not in the bucket"] = said(one.load("ghost", f"s3://adapters/ghost{one.slash}"))
    found["a name that climbs"] = said(one.load("../../climbed", f"s3://adapters/a1{one.slash}"))
    one.load("kept", f"s3://adapters/a1{one.slash}")
    one.engine.stop(signal.SIGKILL)
    found["unload with a dead engine"] = said(one.unload("kept"))
    time.sleep(2)
    found["ready two seconds after the engine died"] = said(
        next(
            (answer for path in ("/readyz", "/ready") if (answer := one.ask("GET", path)).status != 404),
            Answer(404, "", 0),
        )
    )
    return found


def main() -> None:
    kinds: list[type[Sidecar]] = [Ours]
    if peers.aibrix() is not None:
        kinds.append(Theirs)
    table: dict[str, dict[str, str]] = {}
    folder = Path(tempfile.mkdtemp(prefix="aibrix-bench-"))
    try:
        with buckets.running(folder / "bucket", "adapters") as endpoint:
            fill(endpoint, folder / "source")
            for kind in kinds:
                flags = ("--enable-lora", "--max-loras=8", "--max-cpu-loras=400", "--max-lora-rank=16")
                engine = Mock(*flags, speed=100)
                one = kind(engine, endpoint, folder / kind.__name__)
                try:
                    for what, text in (figures(one) | faults(one)).items():
                        table.setdefault(what, {})[kind.name] = text
                finally:
                    one.close()
                    engine.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for what, row in table.items():
        print(what)
        for name, text in row.items():
            print(f"  {name:14} {text}")


if __name__ == "__main__":
    main()
