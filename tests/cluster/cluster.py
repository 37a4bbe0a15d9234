"""A Kubernetes cluster for tests: start it, talk to it, break it.

`Cluster.start` runs `tests.cluster.world` in namespaces of its own. Everything below it dies with this process, however
it ends.
"""

import contextlib
import dataclasses
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import assets
from tests.cluster.api import Api
from tests.cluster.control_plane import TOKEN
from tests.cluster.node import Spec
from tests.toolchain import say

ROOT = Path(__file__).parents[2]
L4 = {"nvidia.com/gpu.product": "NVIDIA-L4", "cloud.google.com/gke-accelerator": "nvidia-l4"}
A100 = {"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"}
H100 = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb", "karpenter.k8s.aws/instance-gpu-name": "h100"}
H200 = {"karpenter.k8s.aws/instance-gpu-name": "h200"}
SPOT = {"karpenter.sh/capacity-type": "spot"}
NODES = (
    Spec("plain-a", "10.244.0.18"),
    Spec("plain-b", "10.244.0.19", zone="b"),
    *(Spec(f"l4-{zone}", f"10.244.0.{20 + index}", 48, zone, L4) for index, zone in enumerate("abc")),
    Spec("a100-a", "10.244.0.30", 8, "a", A100),
    *(Spec(f"h100-{zone}", f"10.244.0.{40 + index}", 8, zone, H100) for index, zone in enumerate("abcd")),
    Spec("h100-spot", "10.244.0.50", 8, "c", H100 | SPOT, taints=(("karpenter.sh/capacity-type", "spot"),)),
    Spec("h200-a", "10.244.0.60", 8, "a", H200),
)
"""What the examples ask for, by the labels of their environments. Tolerations are proven: every GPU node has the vendor's taint."""


class Cluster:
    """`api` is the API server as administrator, `folder` has the logs."""

    def __init__(self, folder: Path, world: subprocess.Popen[str], minor: str) -> None:
        self.folder, self._world, self.minor = folder, world, minor
        self.api = Api.through(folder / "api.sock", TOKEN)
        self.kubeconfig = folder / "kubeconfig"

    @classmethod
    @contextmanager
    def start(cls, minor: str = assets.DEFAULT, nodes: Sequence[Spec] = NODES) -> Iterator["Cluster"]:
        """`Missing` if programs are missing; RuntimeError with the logs' ends if they do not start."""
        programs = assets.control_plane(minor)
        folder, began = Path(tempfile.mkdtemp(prefix="aibrix-", dir="/tmp")), time.monotonic()
        command = [str(programs["unshare"]), "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc"]
        command += ["--kill-child", sys.executable, "-m", "tests.cluster.world", "--folder", str(folder)]
        command += ["--programs", json.dumps({name: str(path) for name, path in programs.items()})]
        command += ["--nodes", json.dumps([dataclasses.asdict(one) for one in nodes])]
        with (folder / "world.log").open("w") as log:
            world = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            _await_ready(world, folder)
            say(f"Kubernetes {minor} is ready after {time.monotonic() - began:.1f} s; logs in {folder}")
            yield cls(folder, world, minor)
        finally:
            assert world.stdin is not None
            world.stdin.close()
            try:
                world.wait(10)
            except subprocess.TimeoutExpired:
                world.kill()
                world.wait()
            if "AIBRIX_KEEP_LOGS" not in os.environ:
                shutil.rmtree(folder, ignore_errors=True)

    # --- programs

    def run(
        self, *argv: str, timeout: float = 60, stdin: str = "", env: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """A program inside the nodes' network: {code, out, err}."""
        found: dict[str, Any] = self._do("run", argv=list(argv), env=env or {}, timeout=timeout, stdin=stdin)
        return found

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        done = self.run("kubectl", f"--kubeconfig={self.kubeconfig}", *arguments, stdin=stdin)
        if done["code"]:
            raise RuntimeError(done["err"])
        return str(done["out"])

    @contextmanager
    def program(self, name: str, *argv: str, env: dict[str, str] | None = None) -> Iterator[Path]:
        """A program in the background; yields its log."""
        log = Path(self._do("start", name=name, argv=list(argv), env=env or {}))
        try:
            yield log
        finally:
            self._do("stop", name=name)

    def exec(self, namespace: str, pod: str, *argv: str, timeout: float = 30) -> str:
        code, said = self._do("exec", namespace=namespace, name=pod, argv=list(argv), timeout=timeout)
        if code:
            raise RuntimeError(f"{argv} in {pod}: exit {code}: {said}")
        return str(said)

    @contextmanager
    def followed(self, namespace: str, pod: str, container: str) -> Iterator[Path]:
        """A file with all that the container says until it ends."""
        (log,) = (self.folder / "pods").glob(f"{namespace}_{pod}_*/logs/{container}/0.log")
        yield log

    def logs(self, namespace: str, pod: str, container: str = "") -> str:
        return str(self._do("logs", namespace=namespace, name=pod, container=container))

    # --- faults: each has its end

    def kill(self, namespace: str, pod: str, container: str = "") -> None:
        """SIGKILL to PID 1 of each container, or of one, which may be a sidecar; the node restarts them."""
        self._do("kill", namespace=namespace, name=pod, container=container)

    @contextmanager
    def frozen(self, namespace: str, pod: str) -> Iterator[None]:
        """Processes stopped, sockets open: a hung engine."""
        with self._fault("freeze", {"namespace": namespace, "name": pod}, "freeze", {"thaw": True}):
            yield

    @contextmanager
    def cut_off(self, namespace: str, pod: str) -> Iterator[None]:
        """Packets to and from the pod vanish."""
        with self._fault("cut", {"namespace": namespace, "name": pod}, "cut", {"mend": True}):
            yield

    @contextmanager
    def slow_readiness(self, namespace: str, pod: str, seconds: float) -> Iterator[None]:
        where = {"namespace": namespace, "name": pod}
        self._do("slow_readiness", **where, seconds=seconds)
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):
                self._do("slow_readiness", **where, seconds=0)

    @contextmanager
    def lost_node(self, node: str) -> Iterator[None]:
        """Power off, then on again."""
        with self._fault("lose_node", {"node": node}, "restore_node", {}):
            yield

    @contextmanager
    def api_server_down(self) -> Iterator[None]:
        self._do("api_down")
        try:
            yield
        finally:
            self._do("api_up")

    def forget_names(self) -> None:
        """Empty the DNS cache."""
        self._do("forget_names")

    @contextmanager
    def _fault(self, begin: str, where: dict[str, Any], end: str, more: dict[str, Any]) -> Iterator[None]:
        self._do(begin, **where)
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # the pod may be gone by then
                self._do(end, **where, **more)

    def _do(self, action: str, **more: Any) -> Any:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.folder / "control.sock"))
            line.sendall(json.dumps({"do": action, **more}).encode() + b"\n")
            with line.makefile() as answers:
                answer = json.loads(answers.readline() or '{"error": "the cluster is gone"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]


def _await_ready(world: subprocess.Popen[str], folder: Path) -> None:
    assert world.stdout is not None
    said, deadline = "", time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([world.stdout], [], [], 1)[0]:
            line = world.stdout.readline()
            if line.strip() == "ready":
                return
            said += line
            if not line:
                break
    log = (folder / "world.log").read_text("utf-8", "replace")
    raise RuntimeError(f"the cluster did not start:\n{said}\n{log[-3000:]}")
