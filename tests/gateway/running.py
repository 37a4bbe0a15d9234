"""A compiled gateway as processes: the real Envoy with the emitted files, pickers, mock engines, names.

Each has a /24 of loopback addresses of its own, so that everything listens on the ports that it has in a cluster and any
number of gateways run side by side. Only addresses, folders and the DNS resolver differ from what a pod gets.
"""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from aibrix_compile.backends import gateway as backend
from aibrix_compile.backends.gateway import picker as picker_backend
from aibrix_compile.backends.gateway import workloads
from aibrix_compile.backends.gateway.clusters import Place
from aibrix_compile.compiler import compile_workspace
from aibrix_compile.diagnostics import Severity
from aibrix_compile.emit import yaml_text
from aibrix_compile.loading import load
from aibrix_compile.plan import EnvironmentPlan, ServicePlan
from tests.gateway.names import Names
from tests.mock.mocks import Mock
from tests.runtime import sidecar
from tests.runtime.sidecar import Sidecar

ROOT = Path(__file__).parents[2]
ENVOY = Path(sys.prefix) / "bin" / "envoy"
KEY = "key-of-"
"""A tenant's key is this and its name."""
_PATHS = (ROOT, ROOT / "controllers")


def compiled(folder: Path, environment: str = "") -> EnvironmentPlan:
    """The plan of a project's environment, the first if none is named."""
    workspace = load([folder], folder)
    workspace.selected = None
    result = compile_workspace(workspace, build=True)
    assert not result.failed, [str(one) for one in result.diagnostics if one.severity is Severity.ERROR]
    return next(plan for plan in result.plans if environment in ("", plan.name))


class Engine(Mock):
    """A replica of a service, at an address of its own; with a real sidecar if the service has one, whose files lie in `folder`."""

    sidecar: Sidecar | None = None

    def __init__(
        self, service: ServicePlan, pool: str, address: str, speed: float, folder: Path, **variables: str
    ) -> None:
        self.service, self.pool, self.address = service.name, pool, f"{address}:{service.port}"
        adapters = service.adapters
        flags = ["--enable-lora", f"--max-loras={adapters.max_loaded}"] if adapters else []
        at = (address, service.port)
        super().__init__(*flags, at=at, served=service.served_name, speed=speed, wait=False, **variables)
        if service.runtime:
            folder.mkdir()
            limits = {"max_loaded": adapters.max_loaded, "max_cached": adapters.max_cached} if adapters else {}
            beside = {"at": (address, service.runtime.port), "model": service.served_name, "allow": ("file:///",)}
            self.sidecar = Sidecar(folder, self.url, **beside, **limits)  # type: ignore[arg-type]

    def close(self) -> None:
        if self.sidecar:
            self.sidecar.stop(signal.SIGKILL)
            self.sidecar.http.close()
        super().close()


class Picker:
    """One picker process at an address of its own; `http` speaks to its port for people."""

    def __init__(self, folder: Path, address: str, peers: str) -> None:
        self.address, self._folder, self._peers = address, folder, peers
        self.http = httpx.Client(base_url=f"http://{address}:{workloads.METRICS.number}", timeout=10)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "aibrix_controllers.picker", "run", "--bind", self.address]
        command += ["--config", str(self._folder / "config" / "picker.json")]
        command += ["--endpoints", str(self._folder / "endpoints.json"), "--peers", self._peers]
        (self._folder / "token").write_text(sidecar.READER)
        command += ["--runtime-token", str(self._folder / "token")]
        functions = self._folder / "functions"
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (*_PATHS, functions))),
            "POD_IP": self.address,
        }
        self.log = self._folder / f"picker-{self.address}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=self._folder)
        wait(lambda: self._answers("/readyz"), 20, lambda: self.log.read_text()[-3000:])

    def _answers(self, path: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        with contextlib.suppress(httpx.TransportError):
            return self.http.get(path).status_code == 200
        return False

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of that name with these labels."""
        return summed(self.http.get("/metrics").text, name, **labels)

    def stop(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


class Gateway:
    """`url` is where clients call; `engines` and `pickers` are what stands behind."""

    def __init__(self, plan: EnvironmentPlan) -> None:
        assert plan.gateway is not None
        self.plan, self.folder = plan, Path(tempfile.mkdtemp(prefix="aibrix-gateway-"))
        self._net = f"127.{random.randint(2, 250)}.{random.randint(1, 250)}"
        self.names = Names(f"{self._net}.53", 5353)
        self.engines: list[Engine] = []
        self.pickers: list[Picker] = []
        self._together = 2
        """Addresses at which pickers look for each other."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._place = self._where()
        self.url = f"http{'s' if plan.gateway.tls_secret else ''}://{self._net}.100:8080"
        self.ops, self.admin = f"http://{self._net}.100:8081", f"http://127.0.0.1:{self._place.admin_port}"
        self.client = self.caller()

    def start(self, replicas: Mapping[str, int], pickers: int, speed: float, variables: Mapping[str, str]) -> None:
        services = {service.name: service for service in self.plan.services}
        for name, count in replicas.items():
            for _ in range(count):
                self.add(services[name], speed, **variables)
        for engine in self.engines:
            engine.ready()
        self.announce()
        self.publish(self.plan)
        self._keys()
        self._together = max(2, pickers)
        for _ in range(pickers if self._gateway.picker else 0):
            self.add_picker()
        self._envoy()

    # --- what stands behind

    def add(self, service: ServicePlan, speed: float, pool: str = "", **variables: str) -> Engine:
        """One more replica; `announce` tells of it."""
        address = self.address()
        engine = Engine(service, pool or service.pools[0].name, address, speed, self.folder / address, **variables)
        self.engines.append(engine)
        return engine

    def address(self) -> str:
        """Of the next engine."""
        return f"{self._net}.{len(self.engines) + 1}"

    def announce(self, *hidden: Engine) -> None:
        """Names and the pickers' endpoints, of all engines but those hidden."""
        shown = [engine for engine in self.engines if engine not in hidden]
        rows: dict[str, list[dict[str, str]]] = {service.name: [] for service in self.plan.services}
        for engine in shown:
            rows[engine.service].append({"address": engine.address, "pool": engine.pool})
        for service in self.plan.services:
            name = f"{service.headless}.{service.namespace}.svc.cluster.local"
            self.names.addresses[name] = [row["address"].partition(":")[0] for row in rows[service.name]]
        _replace(self.folder / "endpoints.json", json.dumps(rows))

    def settled(self, *hidden: Engine) -> None:
        """Waits until Envoy holds all engines but those hidden for healthy, and has heard that those are gone."""

        def known() -> bool:
            page = httpx.get(f"{self.admin}/clusters").text
            shown = [f"::{one.address}::health_flags::healthy" for one in self.engines if one not in hidden]
            return all(row in page for row in shown) and not any(f"::{one.address}::" in page for one in hidden)

        wait(known, 15)

    def of(self, service: str) -> list[Engine]:
        return [engine for engine in self.engines if engine.service == service]

    def add_picker(self) -> Picker:
        assert self.plan.gateway is not None
        gateway = self.plan.gateway
        name = f"{gateway.picker}.{gateway.namespace}.svc.cluster.local"
        address = f"{self._net}.{201 + len(self.pickers)}"
        peers = ",".join(f"{self._net}.{201 + index}:{workloads.PEERS.number}" for index in range(self._together))
        picker = Picker(self.folder, address, peers)
        self.pickers.append(picker)
        self.names.addresses[name] = [one.address for one in self.pickers]
        return picker

    # --- Envoy

    def _where(self) -> Place:
        assert self.plan.gateway is not None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            admin = probe.getsockname()[1]
        return dataclasses.replace(
            backend.place(self.plan.gateway),
            listen=f"{self._net}.100",
            admin_port=admin,
            folder=str(self.folder),
            keys=str(self.folder / "keys"),
            tls=str(self.folder / "tls"),
        )

    def publish(self, plan: EnvironmentPlan) -> None:
        """The files of Envoy and the pickers, swapped in as kubelet does: a link to a folder is replaced."""
        self.plan = plan
        assert plan.gateway is not None
        for name, content in backend.files(plan, self._place).items():
            _swap(self.folder / name, {f"{name}.yaml": yaml_text(_resolved(content, self.names))})
        if plan.gateway.picker:
            text = picker_backend.configuration(plan, plan.gateway)
            _swap(self.folder / "config", {"picker.json": text})
            _swap(self.folder / "functions", picker_backend.functions(plan))

    def spoil(self, name: str, change: Callable[[dict[str, Any]], str | dict[str, Any]]) -> None:
        """One of Envoy's files with a change that the compiler would not make."""
        content = _resolved(backend.files(self.plan, self._place)[name], self.names)
        changed = change(content)
        text = changed if isinstance(changed, str) else yaml_text(changed)
        _swap(self.folder / name, {f"{name}.yaml": text})

    def _keys(self) -> None:
        """The Secret and the sidecar that turns it into Envoy's file: the script that pods run."""
        gateway = self.plan.gateway
        assert gateway is not None
        (self.folder / "keys").mkdir()
        if gateway.tls_secret:
            certificate(self.folder / "tls", gateway.hostname or "localhost")
        if not gateway.keys_secret:
            return
        self.secret({tenant.name: f"{KEY}{tenant.name}\n" for tenant in gateway.tenants})
        script = self.folder / "keys.sh"
        script.write_text(workloads.scripts(gateway)["keys.sh"])
        file = self.folder / "keys" / "api_keys.yaml"
        command = ["bash", str(script), str(self.folder / "secret"), str(file), *(one.name for one in gateway.tenants)]
        self._start(command, "keys")
        wait(file.exists, 5)

    def secret(self, entries: Mapping[str, str]) -> None:
        """What the Secret with the tenants' keys holds."""
        _swap(self.folder / "secret", entries)

    def _envoy(self) -> None:
        pod = workloads.envoy(self.plan.name, self._gateway, self.plan.services, "")["spec"]["template"]["spec"]
        words = list(pod["containers"][0]["args"])
        words[words.index("-c") + 1] = str(self.folder / "bootstrap" / "bootstrap.yaml")
        words[words.index("--concurrency") + 1] = "1"
        self.envoy = self._start([str(ENVOY), *words], "envoy")
        wait(self._ready, 20, lambda: (self.folder / "envoy.log").read_text()[-3000:])

    def _ready(self) -> bool:
        assert self.envoy.poll() is None, (self.folder / "envoy.log").read_text()[-3000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{self.ops}/ready").status_code != 200:
                return False
            healthy = httpx.get(f"{self.admin}/clusters").text.count("health_flags::healthy")
            return healthy >= len(self.engines) + len(self.pickers)
        return False

    @property
    def _gateway(self) -> Any:
        assert self.plan.gateway is not None
        return self.plan.gateway

    def _start(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("a") as log, (self.folder / f"{name}.out").open("a") as out:
            process = subprocess.Popen(command, stdout=out, stderr=log, stdin=subprocess.DEVNULL)
        self._processes.append(process)
        return process

    # --- what tests ask

    def caller(self, tenant: str = "", **settings: Any) -> httpx.Client:
        """A client with a tenant's key, by default the first tenant's."""
        tenants = [one.name for one in self._gateway.tenants]
        name = tenant or (tenants[0] if tenants else "")
        headers = {"authorization": f"Bearer {KEY}{name}"} if self._gateway.keys_secret else {}
        host = {"host": self._gateway.hostname} if self._gateway.hostname else {}
        return httpx.Client(base_url=self.url, headers=headers | host, timeout=30, verify=False, **settings)

    def entries(self, count: int = 0, seconds: float = 5) -> list[dict[str, Any]]:
        """The access log, once it has `count` lines."""
        path = self.folder / "envoy.out"
        rows = lambda: [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]  # noqa: E731
        wait(lambda: len(rows()) >= count, seconds)
        return rows()

    def entry(self, request_id: str) -> dict[str, Any]:
        """The access log's line of one request."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [row for row in self.entries() if row["request_id"] == request_id]
            return bool(found)

        wait(there, 5)
        return found[0]

    def stat(self, name: str, **labels: str) -> float:
        """One of Envoy's own metrics, by its Prometheus name."""
        return summed(httpx.get(f"{self.ops}/metrics").text, name, **labels)

    def close(self) -> None:
        for picker in self.pickers:
            picker.stop()
        for process in self._processes:
            process.kill()
            process.wait(10)
        for engine in self.engines:
            engine.close()
        self.names.close()
        self.client.close()
        if "AIBRIX_KEEP_LOGS" in os.environ:
            print(f"logs of the gateway are in {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(
    plan: EnvironmentPlan, replicas: Mapping[str, int], *, pickers: int = 1, speed: float = 10, **variables: str
) -> Iterator[Gateway]:
    """A gateway with so many mock replicas of each service; `variables` are those of the mocks."""
    gateway = Gateway(plan)
    try:
        gateway.start(replicas, pickers, speed, variables)
        yield gateway
    finally:
        gateway.close()


def wait(done: Callable[[], bool], seconds: float, why: Callable[[], str] = lambda: "") -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, why() or f"not within {seconds:g} s"
        time.sleep(0.02)


def summed(text: str, name: str, **labels: str) -> float:
    total = 0.0
    for row in text.splitlines():
        head, _, value = row.rpartition(" ")
        if head.partition("{")[0] == name and all(f'{key}="{word}"' in head for key, word in labels.items()):
            total += float(value)
    return total


def certificate(folder: Path, host: str) -> None:
    """A certificate that nobody has signed, put there as a Secret's is."""
    with tempfile.TemporaryDirectory() as made:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", f"{made}/tls.key", "-out", f"{made}/tls.crt", "-days", "9", "-subj", f"/CN={host}"]
        subprocess.run(command, check=True, capture_output=True)
        _swap(folder, {name: (Path(made) / name).read_text() for name in ("tls.key", "tls.crt")})


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def _swap(folder: Path, files: Mapping[str, str]) -> None:
    """As kubelet writes a ConfigMap: files are links into ..data, which is a link that is replaced in one step."""
    folder.mkdir(exist_ok=True)
    content = folder / f"..{time.time_ns()}"
    content.mkdir()
    for name, text in files.items():
        (content / name).write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(content.name)
    link.replace(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def _resolved(content: Any, names: Names) -> Any:
    """With the resolver of the test instead of the pod's."""
    if isinstance(content, list):
        return [_resolved(one, names) for one in content]
    if not isinstance(content, dict):
        return content
    found = {key: _resolved(value, names) for key, value in content.items()}
    if found.get("type") == "STRICT_DNS":
        resolver = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
        address = {"socket_address": {"address": names.address, "port_value": names.port}}
        emitted = found.get("typed_dns_resolver_config", {}).get("typed_config", {})
        options = emitted.get("dns_resolver_options", {}) | {"no_default_search_domain": True}
        found["typed_dns_resolver_config"] = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": f"type.googleapis.com/{resolver}",
                "resolvers": [address],
                "dns_resolver_options": options,
            },
        }
    return found
