"""The test cluster on kind (https://kind.sigs.k8s.io), where docker is: kubelets, containerd and CNI are real here.

`KindCluster` has the surface of `Cluster`, and `AIBRIX_CLUSTER=kind` chooses it, so the same tests run on both. A node
is a docker container. Four are machines (`REAL`); all of `NODES` exist for hollow pods besides (see kind_nodes.py).
Intervals are those of the process cluster where Kubernetes lets us set them.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster import assets, kubeconfig
from tests.cluster.api import Api, Refused, ready, wait
from tests.cluster.cluster import NODES, ROOT
from tests.cluster.kind_nodes import policies
from tests.cluster.kind_setup import IMAGES, NODE_IMAGES, REAL, TOOLS, build_images, config, docker, program
from tests.cluster.node import Spec
from tests.cluster.watch import Object
from tests.toolchain import Missing, say

_ADMIN = "--kubeconfig=/etc/kubernetes/admin.conf"  # on the control plane's node
_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"


class KindCluster:
    """`api` is the API server as administrator, `folder` has the logs of our side, and kind's own if they are kept."""

    def __init__(self, name: str, folder: Path, kind: Path, nodes: Sequence[Spec]) -> None:
        self.name, self.folder, self._kind, self._nodes = name, folder, kind, nodes
        self.kubeconfig = folder / "kubeconfig"
        self.control = f"{name}-control-plane"
        self._tools = f"{name}-tools"
        workers = [f"{name}-worker{number or ''}" for number in (0, *range(2, len(REAL) + 1))]  # as kind names them
        self._real = dict(zip(workers, (one for one in nodes if one.name in REAL), strict=False))

    @classmethod
    @contextmanager
    def start(cls, minor: str = assets.DEFAULT, nodes: Sequence[Spec] = NODES) -> Iterator["KindCluster"]:
        """`Missing` without docker or kind; RuntimeError with what they said if the cluster does not start."""
        image = os.environ.get("AIBRIX_KIND_IMAGE") or NODE_IMAGES.get(minor, "")
        version = re.search(r":v(\d+)\.(\d+)", image)
        if version is None:
            raise Missing(
                f"no node image of Kubernetes {minor} is known; AIBRIX_KIND_IMAGE=kindest/node:vX.Y.Z names one"
            )
        try:
            docker("info", timeout=30)
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            raise Missing(f"a cluster on kind needs docker: {error}") from None
        kind, began = program(), time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="aibrix-", dir="/tmp"))
        found, failed = cls(f"aibrix-{os.getpid()}", folder, kind, nodes), True
        try:
            build_images()
            with found._created(image, (int(version[1]), int(version[2]))):
                say(
                    f"Kubernetes {found.minor} on kind is ready after {time.monotonic() - began:.0f} s; logs in {folder}"
                )
                yield found
            failed = False
        finally:
            if failed or "AIBRIX_KEEP_LOGS" in os.environ:
                subprocess.run(
                    [kind, "export", "logs", str(folder / "kind"), "--name", found.name], capture_output=True
                )
            with contextlib.suppress(RuntimeError):  # written as root, and below our folder
                found._on(found.control, "sh", "-c", "rm -rf /claims/*")
            subprocess.run(["docker", "rm", "-f", found._tools], capture_output=True)
            subprocess.run([kind, "delete", "cluster", "--name", found.name], capture_output=True)
            if "AIBRIX_KEEP_LOGS" not in os.environ:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _created(self, image: str, kubernetes: tuple[int, int]) -> Iterator[None]:
        (self.folder / "claims").mkdir()
        file = self.folder / "kind.json"
        file.write_text(json.dumps(config(kubernetes, self.folder / "claims"), indent=2))
        words = ["create", "cluster", "--name", self.name, "--config", str(file), "--image", image]
        self._kind_does(*words, "--kubeconfig", str(self.kubeconfig), "--retain", "--wait", "180s")
        self._kind_does("load", "docker-image", "--name", self.name, *IMAGES)
        where = ["--network", f"container:{self.control}", "--volume", f"{ROOT}:{ROOT}:ro"]
        docker("run", "--detach", "--rm", "--init", "--name", self._tools, *where, TOOLS, "sleep", "infinity")
        server, tls = kubeconfig.read(self.kubeconfig)
        self.api = Api(httpx.Client(base_url=server, verify=tls, timeout=30, trust_env=False))
        self.minor = f"{kubernetes[0]}.{kubernetes[1]}"
        self._furnish("v1" if kubernetes >= (1, 36) else "v1beta1")
        with self._hollow_nodes():
            self._all_ready(1 + len(REAL) + len(self._nodes))
            yield

    def _furnish(self, version: str) -> None:
        self.api.delete({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "standard"}})
        for value in policies(version):
            self.api.apply(value, "test")
        self._all_ready(1 + len(REAL))
        names = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "coredns", "namespace": "kube-system"},
        }
        stay = {"nodeSelector": {"node-role.kubernetes.io/control-plane": ""}}  # a lost worker takes no names with it
        self.api.patch(names, {"spec": {"template": {"spec": stay}}})
        for node in self._real:
            self._dress(node)

    def _all_ready(self, count: int) -> None:
        wait(f"{count} nodes are ready", lambda: len(ready(self.api.list("Node"))) == count, 180)

    def _dress(self, node: str) -> None:
        """A worker becomes the node it stands for. GPUs that nobody backs are extended resources to Kubernetes."""
        spec, value = self._real[node], {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
        labels = {"topology.kubernetes.io/zone": spec.zone, **spec.labels}
        self.api.patch(value, {"metadata": {"labels": labels}, "spec": {"taints": spec.value()["spec"]["taints"]}})
        if spec.gpus:
            amount = {"nvidia.com/gpu": str(spec.gpus)}
            self.api.patch(value, {"status": {"capacity": amount, "allocatable": amount}}, subresource="status")

    @contextmanager
    def _hollow_nodes(self) -> Iterator[None]:
        specs = json.dumps([dataclasses.asdict(one) for one in self._nodes])
        words = [sys.executable, "-m", "tests.cluster.kind_nodes", "--kubeconfig", str(self.kubeconfig)]
        words += ["--folder", str(self.folder), "--nodes", specs]
        with (self.folder / "hollow.log").open("w") as log:
            agent = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield
        finally:
            agent.kill()
            agent.wait()

    # --- programs

    def run(
        self, *argv: str, timeout: float = 60, stdin: str = "", env: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """A program inside the control plane node's network, in a container with Python and this checkout."""
        words = ["docker", "exec", "-i", *_variables(env), self._tools, "timeout", "--kill-after=1", str(timeout)]
        done = subprocess.run([*words, *_inside(argv)], input=stdin, capture_output=True, text=True)
        if done.returncode == 124:
            raise RuntimeError(f"TimeoutError: {argv[0]} did not end within {timeout} s")
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr}

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self._on(self.control, "kubectl", _ADMIN, *arguments, stdin=stdin)

    @contextmanager
    def program(self, name: str, *argv: str, env: dict[str, str] | None = None) -> Iterator[Path]:
        """A program in the background; yields its log. `docker exec` passes no signals on, so its pid is noted."""
        log, mark = self.folder / f"{name}.log", f"/tmp/{name}.pid"
        words = ["docker", "exec", *_variables(env), self._tools, "sh", "-c", f'echo $$ > {mark}; exec "$@"', "sh"]
        with log.open("ab") as output:
            running = subprocess.Popen([*words, *_inside(argv)], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield log
        finally:
            for signal in ("TERM", "KILL"):
                if running.poll() is None:
                    subprocess.run(["docker", "exec", self._tools, "sh", "-c", f"kill -{signal} $(cat {mark})"])
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        running.wait(20)

    def exec(self, namespace: str, pod: str, *argv: str, timeout: float = 30) -> str:
        first = self.api.get("Pod", pod, namespace)["spec"]["containers"][0]["name"]
        words = ["exec", "-n", namespace, pod, "-c", first, "--", *argv]
        done = _docker_exec(self.control, "timeout", str(timeout), "kubectl", _ADMIN, *words)
        if done.returncode:
            raise RuntimeError(f"{argv} in {pod}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def logs(self, namespace: str, pod: str, container: str = "") -> str:
        chosen = container or self.api.get("Pod", pod, namespace)["spec"]["containers"][0]["name"]
        return self.kubectl("logs", "-n", namespace, pod, "-c", chosen)

    @contextmanager
    def followed(self, namespace: str, pod: str, container: str) -> Iterator[Path]:
        """A file with all that the container says until it ends: the node forgets its logs with the pod."""
        log = self.folder / f"{namespace}_{pod}_{container}.log"
        words = ["docker", "exec", self.control, "kubectl", _ADMIN, "logs", "-f", "-n", namespace, pod, "-c", container]
        with log.open("wb") as output:
            running = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output)
        try:
            wait("the log's beginning", lambda: log.stat().st_size, 10)
            yield log
        finally:
            running.kill()
            running.wait()

    # --- faults: each has its end

    def kill(self, namespace: str, pod: str) -> None:
        """SIGKILL to PID 1 of each container; the node restarts them."""
        self._tasks(*self._containers(namespace, pod), action=("kill", "--signal", "SIGKILL"))

    @contextmanager
    def frozen(self, namespace: str, pod: str) -> Iterator[None]:
        """Processes stopped by their cgroup's freezer, sockets open: a hung engine."""
        node, containers = self._containers(namespace, pod)
        self._tasks(node, containers, action=("pause",))
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # the pod may be gone by then
                self._tasks(node, containers, action=("resume",))

    @contextmanager
    def cut_off(self, namespace: str, pod: str) -> Iterator[None]:
        """Packets to and from the pod vanish on its node, the kubelet's probes among them."""
        node, address = self._place(namespace, pod)
        with self._filter(node, cut(address)):
            yield

    @contextmanager
    def slow_readiness(self, namespace: str, pod: str, seconds: float) -> Iterator[None]:
        """A kubelet can not be slowed for one kind of probe: its packets to the pod vanish, which is what a probe
        sees that takes longer than its timeout. Skipped where that would not hit readiness alone."""
        containers = self.api.get("Pod", pod, namespace)["spec"]["containers"]
        if why := unfaithful(containers, seconds):
            pytest.skip(f"kind can not slow the readiness of {namespace}/{pod}: {why}")
        node, address = self._place(namespace, pod)
        with self._filter(node, deaf(address)):
            yield

    @contextmanager
    def lost_node(self, node: str) -> Iterator[None]:
        """Power off, then on again: every process of the node dies, and its network with it."""
        if node not in self._real:
            raise ValueError(f"{node} is no machine that can be lost; these are: {sorted(self._real)}")
        before = self._renewed(node)
        docker("kill", node)
        try:
            yield
        finally:
            docker("start", node)
            wait(f"{node} is back", lambda: self._renewed(node) != before and self._is_ready(node), 120)
            wait("it has its GPUs", lambda: self._keeps_its_gpus(node), 60)

    @contextmanager
    def api_server_down(self) -> Iterator[None]:
        """Its static pod is taken from the kubelet, which would restart a process that is only killed."""
        aside = "/etc/kubernetes/kube-apiserver.yaml"
        self._on(self.control, "mv", _MANIFEST, aside)
        try:
            wait("the API server is away", lambda: not self._answers(), 60)
            yield
        finally:
            self._on(self.control, "mv", aside, _MANIFEST)
            wait("the API server is back", self._answers, 120)

    def forget_names(self) -> None:
        """Empty the DNS cache: it is in CoreDNS's memory."""
        for words in (("restart",), ("status", "--timeout=60s")):
            self.kubectl("-n", "kube-system", "rollout", *words, "deployment/coredns")

    # --- how

    def _kind_does(self, *argv: str) -> None:
        with (self.folder / "kind.log").open("a") as log:
            done = subprocess.run([self._kind, *argv], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if done.returncode:
            said = (self.folder / "kind.log").read_text("utf-8", "replace")
            raise RuntimeError(f"kind {' '.join(argv[:2])} failed:\n{said[-3000:]}")

    def _on(self, node: str, *argv: str, stdin: str = "") -> str:
        done = _docker_exec(node, *argv, stdin=stdin)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv[:3])} on {node}: {done.stderr or done.stdout}")
        return done.stdout

    def _tasks(self, node: str, containers: list[str], action: tuple[str, ...]) -> None:
        for one in containers:
            self._on(node, "ctr", "--namespace=k8s.io", "tasks", *action, one)

    def _containers(self, namespace: str, pod: str) -> tuple[str, list[str]]:
        """Node and containerd's names of what runs."""
        value = self.api.get("Pod", pod, namespace)
        rows = [one for one in value["status"].get("containerStatuses", ()) if "running" in one["state"]]
        return value["spec"]["nodeName"], [one["containerID"].removeprefix("containerd://") for one in rows]

    def _place(self, namespace: str, pod: str) -> tuple[str, str]:
        value = self.api.get("Pod", pod, namespace)
        return value["spec"]["nodeName"], value["status"]["podIP"]

    @contextmanager
    def _filter(self, node: str, table: tuple[str, str]) -> Iterator[None]:
        name, text = table
        self._on(node, "nft", "-f", "-", stdin=text)
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # the node may have been restarted
                self._on(node, "nft", "delete", "table", "ip", name)

    def _renewed(self, node: str) -> str:
        return str(self.api.get("Lease", node, "kube-node-lease")["spec"]["renewTime"])

    def _is_ready(self, node: str) -> bool:
        return bool(ready([self.api.get("Node", node)]))

    def _keeps_its_gpus(self, node: str) -> bool:
        """A kubelet that starts anew sets what no device plugin has told it of to zero, some time after its lease."""
        wanted = self._real[node].gpus
        if wanted == 0:
            return True
        self._dress(node)
        time.sleep(3)
        return str(self.api.get("Node", node)["status"]["capacity"].get("nvidia.com/gpu")) == str(wanted)

    def _answers(self) -> bool:
        try:
            self.api.get("Namespace", "default")
        except (httpx.HTTPError, Refused):
            return False
        return True


def cut(address: str) -> tuple[str, str]:
    """An nftables table that drops all that the pod sends, and all that is sent to it once Services are resolved."""
    name = "cut_" + address.replace(".", "_")
    sent = f"chain from {{ type filter hook prerouting priority raw; ip saddr {address} drop; }}"
    got = f"chain to {{ type filter hook postrouting priority 300; ip daddr {address} drop; }}"
    return name, f"table ip {name} {{\n {sent}\n {got}\n}}\n"


def deaf(address: str) -> tuple[str, str]:
    """Drops what the node itself sends to the pod: probes. What others send is forwarded and passes."""
    name = "deaf_" + address.replace(".", "_")
    sent = f"chain out {{ type filter hook output priority 300; ip daddr {address} drop; }}"
    return name, f"table ip {name} {{\n {sent}\n}}\n"


def unfaithful(containers: list[Object], seconds: float, patience: float = 30) -> str:
    """Why dropped probes are not what a slow readiness would be; empty if they are, for `patience` seconds at least."""
    for one in containers:
        if (probe := one.get("readinessProbe")) is not None:
            if "exec" in probe:
                return "its probe is a command, which needs no network"
            if probe.get("timeoutSeconds", 1) > seconds:
                return f"its probe waits longer than {seconds} s"
        if (probe := one.get("livenessProbe")) is not None and "exec" not in probe:
            lasts = probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10)
            if lasts < patience:
                return f"its liveness probe would restart it after {lasts} s"
    return ""


def _docker_exec(where: str, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    flags = ["-i"] if stdin else []
    return subprocess.run(["docker", "exec", *flags, where, *argv], input=stdin, capture_output=True, text=True)


def _variables(env: dict[str, str] | None) -> list[str]:
    return [word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")]


def _inside(argv: Sequence[str]) -> list[str]:
    """This machine's Python is not in the container; its own is."""
    return ["python3" if word == sys.executable else word for word in argv]
