"""Example 01 as running pods: it answers, and what happens to requests when replicas come and go.

The engine is the mock under vLLM's name, started by the emitted command; everything else is real. Answers take about two
seconds (160 tokens on an H100's profile with fifty a second arriving). Figures are printed, failures are counted by kind.
"""

import json
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api import ready, wait
from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.gitops import compiled, drift, namespaces, sync
from tests.cluster.watch import Object
from tests.golden.trees import EXAMPLES
from tests.toolchain import say

MODEL = "Llama-3.1-8B-Instruct"
TOKEN = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "hf-token", "namespace": "default"},
    "stringData": {"token": "hf_x"},
}


class Chat:
    """Example 01 on the cluster; `change` edits the spec, compiles and syncs."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.api, self._folder = cluster, cluster.api, folder
        self.spec = folder / "project" / "chat.yaml"
        self.spec.parent.mkdir()
        shutil.copy(EXAMPLES / "01-minimal" / "chat.yaml", self.spec)
        self.objects: list[Object] = []

    def change(self, old: str = "", new: str = "") -> None:
        text = self.spec.read_text("utf-8")
        assert old in text
        self.spec.write_text(text.replace(old, new, 1) if old else text, "utf-8")
        self.objects = compiled(self.spec.parent, self._folder / "deploy")
        sync(self.api, self.objects)

    @property
    def deployment(self) -> Object:
        return self.api.get("Deployment", "chat-nvidia-l4", "default")

    def pods(self) -> list[Object]:
        return self.api.list("Pod", "default", "serving.aibrix.ai/service=chat")

    def settled(self, replicas: int, seconds: float = 120) -> list[str]:
        """Names of the ready pods once there are exactly so many, all of the current revision, and none on its way out."""

        def look() -> list[str]:
            pods, status = self.pods(), self.deployment["status"]
            seen = self.deployment["metadata"]["generation"] == status.get("observedGeneration")
            whole = len(pods) == len(ready(pods)) == status.get("updatedReplicas") == replicas
            return ready(pods) if seen and whole else []

        found: list[str] = wait(f"{replicas} replicas", look, seconds)
        return found

    def told(self) -> float:
        """When every node had time to learn which pods are ready, a few seconds ago: requests from then on must be good."""
        slices, ours = (
            "kubernetes.io/service-name=chat",
            {pod["status"]["podIP"] for pod in self.pods() if ready([pod])},
        )

        def look() -> bool:
            ends = [
                end
                for one in self.api.list("EndpointSlice", "default", slices, "discovery.k8s.io/v1")
                for end in one["endpoints"] or ()
            ]
            return {end["addresses"][0] for end in ends if end["conditions"]["ready"]} == ours

        wait("endpoints are the ready pods", look)
        time.sleep(5)  # kube-proxy's own pace is one update a second
        since = time.monotonic()
        time.sleep(4)
        return since

    def address(self) -> str:
        return f"http://{self.api.get('Service', 'chat', 'default')['spec']['clusterIP']}"

    @contextmanager
    def load(self, rate: float, tokens: int, *more: str) -> Iterator["Answers"]:
        words = [sys.executable, "-m", "tests.cluster.load", f"{self.address()}/v1/chat/completions", MODEL]
        words += [f"--rate={rate}", f"--tokens={tokens}", *more]
        answers = Answers()
        with self.cluster.program("load", *words, env={"PYTHONPATH": str(ROOT)}) as log:
            answers.log = log
            yield answers
        answers.read()
        log.unlink()


class Answers:
    """What the load got."""

    log: Path

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def read(self) -> None:
        """All rows, one for each request that was started: none is silent."""
        rows = [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line.startswith("{")]
        assert rows and rows[-1] == {"started": len(rows) - 1}, self.log.read_text("utf-8")[-2000:]
        self.rows = rows[:-1]

    def failed(self) -> Counter[str]:
        return Counter(re.sub(r"\d+", "N", row["error"])[:80] for row in self.rows if row["error"])

    def tell(self, what: str) -> None:
        """One line to the terminal: how many, how long, what went wrong."""
        seconds = sorted(row["seconds"] for row in self.rows if not row["error"])
        span = max(row["at"] for row in self.rows) - min(row["at"] for row in self.rows)
        middle, high = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]
        say(
            f"{what}: {len(self.rows)} requests in {span:.0f} s, answers in {middle:.2f} s (p50) {high:.2f} s (p99), "
            f"failed: {dict(self.failed()) or 0}"
        )


@pytest.fixture(scope="module")
def chat(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    found = Chat(cluster, tmp_path_factory.mktemp("chat"))
    found.api.create(TOKEN)
    found.change()
    found.settled(2)
    yield found
    for value in reversed(found.objects):
        found.api.delete(value)
    found.api.delete(TOKEN)
    assert namespaces(found.objects) == {"default"}


def test_a_chat_completion_through_the_service(chat: Chat) -> None:
    body = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
    code = (
        "import sys, urllib.request as r\n"
        "request = r.Request(sys.argv[1], sys.argv[2].encode(), {'content-type': 'application/json'})\n"
        "print(r.urlopen(request, timeout=10).read().decode())"
    )
    url = "http://chat.default.svc.cluster.local/v1/chat/completions"
    pod = chat.settled(2)[0]
    answer = json.loads(chat.cluster.exec("default", pod, "python3", "-c", code, url, json.dumps(body)))
    assert answer["model"] == MODEL and answer["usage"]["completion_tokens"] == 8
    assert answer["choices"][0]["message"]["content"]


def test_the_pods_are_what_was_compiled(chat: Chat) -> None:
    """Spread over nodes and zones, with the token, the drain script, a root that can not be written, as user 1000."""
    assert len({pod["spec"]["nodeName"] for pod in chat.pods()}) == 2
    code = "import os,json; print(json.dumps([os.getuid(), os.environ['HF_TOKEN'], [f for f in os.listdir('/etc/aibrix') if f[0] != '.'], os.access('/', os.W_OK)]))"
    said = json.loads(chat.cluster.exec("default", chat.settled(2)[0], "python3", "-c", code))
    assert said == [1000, "hf_x", ["drain.py"], False]
    assert drift(chat.api, chat.objects) == []


def test_a_rolling_update_under_load_fails_no_request(chat: Chat) -> None:
    before = set(chat.settled(2))
    with chat.load(50, 160) as answers:
        time.sleep(3)
        chat.change("maxModelLen: 16384", "maxModelLen: 8192")
        after = set(chat.settled(2, 180))
        time.sleep(3)
    answers.tell("rolling update")
    assert not before & after
    assert len(answers.rows) > 50 * 30 and not answers.failed()


def test_scaling_up_and_down_under_load_fails_no_request(chat: Chat) -> None:
    with chat.load(50, 160) as answers:
        time.sleep(2)
        chat.api.scale(chat.deployment, 3, "somebody")
        chat.settled(3)
        chat.api.scale(chat.deployment, 1, "somebody")
        chat.settled(1, 120)
    answers.tell("scale 2, 3, 1")
    assert not answers.failed()
    chat.api.scale(chat.deployment, 2, "somebody")
    chat.settled(2)


def test_a_killed_pod_costs_what_it_held_and_nothing_else(chat: Chat) -> None:
    victim = chat.settled(2)[0]
    with chat.load(50, 160) as answers:
        time.sleep(4)
        chat.cluster.kill("default", victim)
        wait("it is noticed", lambda: victim not in ready(chat.pods()))
        chat.settled(2)
        recovered = chat.told()
    answers.tell("pod killed")
    bad = [row for row in answers.rows if row["error"]]
    assert bad, "nobody was told that an engine died"
    assert not [row for row in bad if row["at"] > recovered], "requests failed long after the engine's death was known"


def test_a_lost_node_costs_requests_until_it_is_noticed(chat: Chat) -> None:
    victim, other = chat.settled(2)
    node = next(pod["spec"]["nodeName"] for pod in chat.pods() if pod["metadata"]["name"] == victim)
    with chat.load(20, 160) as answers:
        time.sleep(3)
        lost = time.monotonic()
        with chat.cluster.lost_node(node):
            wait("it is noticed", lambda: victim not in ready(chat.pods()))
            noticed = time.monotonic()
            wait("a replacement", lambda: len(ready(chat.pods())) == 2)
            recovered = chat.told()
    chat.settled(2)
    answers.tell(f"node lost, noticed after {noticed - lost:.1f} s")
    bad = [row for row in answers.rows if row["error"]]
    assert bad, "a node was lost and nobody was told"
    assert not [row for row in bad if row["at"] > recovered], "requests went to a lost node after the cluster knew"
    assert other in ready(chat.pods())


def test_nothing_is_lost_without_the_api_server(chat: Chat) -> None:
    chat.settled(2)
    with chat.load(20, 32) as answers:
        time.sleep(1)
        with chat.cluster.api_server_down():
            time.sleep(5)
        time.sleep(1)
    answers.tell("API server away for 5 s")
    assert not answers.failed()
