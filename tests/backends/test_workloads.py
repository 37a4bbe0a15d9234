"""Replicas over several nodes, and the escape hatch."""

from pathlib import Path

from tests.backends import compiled, objects

LLAMA = "{uri: hf://meta-llama/Llama-3.3-70B-Instruct, revision: 6f6073b423013f6a7d4d9f39144961bfbfbc386b}"
GROUP = "apis: [leaderworkerset.x-k8s.io/v1]"
WIDE = "[{name: wide, accelerator: nvidia-h100-80g, parallelism: {tensor: 8, pipeline: 2}, replicas: 2}]"


def test_a_replica_over_two_nodes_is_a_group(tmp_path: Path) -> None:
    found = objects(tmp_path, model=LLAMA, pools=WIDE, environment=GROUP)
    group = found["LeaderWorkerSet/chat-wide"]["spec"]
    assert (group["replicas"], group["leaderWorkerTemplate"]["size"]) == (2, 2)
    leader, worker = (group["leaderWorkerTemplate"][f"{role}Template"] for role in ("leader", "worker"))
    first, second = leader["spec"]["containers"][0], worker["spec"]["containers"][0]
    for container in (first, second):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert {"--nnodes=2", "--master-addr=$(LWS_LEADER_ADDRESS)", "--node-rank=$(LWS_WORKER_INDEX)"} <= set(
            container["args"]
        )
    assert "--headless" in second["args"] and "--headless" not in first["args"]
    assert "readinessProbe" in first and "readinessProbe" not in second


def test_only_leaders_answer(tmp_path: Path) -> None:
    found = objects(tmp_path, model=LLAMA, pools=WIDE, environment=GROUP)
    chosen = found["Service/chat"]["spec"]["selector"]
    group = found["LeaderWorkerSet/chat-wide"]["spec"]["leaderWorkerTemplate"]
    assert chosen.items() <= group["leaderTemplate"]["metadata"]["labels"].items()
    assert not chosen.items() <= group["workerTemplate"]["metadata"]["labels"].items()


def test_the_cluster_must_have_leader_worker_sets(tmp_path: Path) -> None:
    assert [one.code for one in compiled(tmp_path, model=LLAMA, pools=WIDE).diagnostics] == ["AC507"]


def test_the_template_is_merged_by_the_overlay_rule(tmp_path: Path) -> None:
    template = (
        "{metadata: {annotations: {team: a}}, spec: {dnsPolicy: Default, containers: [{name: engine, env: [{name: HOME, value: /x}]},"
        " {name: side, image: busybox}]}}"
    )
    found = objects(tmp_path, pools=f"[{{accelerator: nvidia-l4, template: {template}}}]")
    merged = found["Deployment/chat-nvidia-l4"]["spec"]["template"]
    assert set(merged["metadata"]["annotations"]) == {"team", "serving.aibrix.ai/config-hash"}
    engine, side = merged["spec"]["containers"]
    assert (merged["spec"]["dnsPolicy"], side["image"]) == ("Default", "busybox")
    assert {"name": "HOME", "value": "/x"} in engine["env"] and len(engine["env"]) > 5 and engine["args"]


def test_a_template_that_breaks_the_pod_is_found(tmp_path: Path) -> None:
    template = "{spec: {containers: [{name: engine, volumeMounts: [{name: nowhere, mountPath: /x}]}]}}"
    result = compiled(tmp_path, pools=f"[{{accelerator: nvidia-l4, template: {template}}}]")
    assert ("AC506", "services/chat.yaml") in [(one.code, one.span.file) for one in result.diagnostics]


def test_a_template_can_not_take_pods_from_their_service(tmp_path: Path) -> None:
    template = "{metadata: {labels: {serving.aibrix.ai/service: other}}}"
    result = compiled(tmp_path, pools=f"[{{accelerator: nvidia-l4, template: {template}}}]")
    assert "AC506" in [one.code for one in result.diagnostics]


def test_pods_are_reached_at_the_engines_port_alone(tmp_path: Path) -> None:
    policy = objects(tmp_path)["NetworkPolicy/chat"]["spec"]
    assert policy["policyTypes"] == ["Ingress"] and policy["ingress"] == [
        {"ports": [{"port": "http", "protocol": "TCP"}]}
    ]
    group = objects(tmp_path, model=LLAMA, pools=WIDE, environment=GROUP)["NetworkPolicy/chat"]["spec"]
    assert group["ingress"][1]["from"] == [{"podSelector": {"matchLabels": {"serving.aibrix.ai/service": "chat"}}}]


def test_a_gateway_without_an_image_for_its_picker_is_refused_by_build_alone(tmp_path: Path) -> None:
    result = compiled(tmp_path, environment="gateway: {hostname: llm.example.com}")
    assert [(one.code, one.span.file) for one in result.diagnostics] == [
        ("AC238", "aibrix.yaml"),
        ("AC502", "aibrix.yaml"),
    ]


def test_a_template_may_refer_to_what_somebody_else_made(tmp_path: Path) -> None:
    template = (
        "{spec: {volumes: [{name: ca, secret: {secretName: corporate-ca}}],"
        " containers: [{name: engine, volumeMounts: [{name: ca, mountPath: /ca}], envFrom: [{configMapRef: {name: proxy}}]}]}}"
    )
    found = objects(tmp_path, pools=f"[{{accelerator: nvidia-l4, template: {template}}}]")
    (last,) = found["Deployment/chat-nvidia-l4"]["spec"]["template"]["spec"]["volumes"][-1:]
    assert last["secret"] == {"secretName": "corporate-ca"}


def test_an_environment_may_lie_anywhere_in_the_repository(tmp_path: Path) -> None:
    argocd = "argocd: {repoURL: https://git.example.com/x, path: clusters/eu}"
    assert "Application/prod-chat" in objects(tmp_path, environment=argocd)
