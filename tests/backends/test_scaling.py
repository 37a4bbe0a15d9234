"""Scaling: the objects of each strategy, who owns replicas, and the way from Git's number to a scaler's."""

from pathlib import Path

import pytest
import yaml
from kubernetes_validate import utils as kubernetes_schemas

from tests.backends import compiled, objects
from tests.cli import run

RANGE = "[{accelerator: nvidia-l4, replicas: {min: 1, max: 4}}]"


def test_hpa_is_kubernetes_own(tmp_path: Path) -> None:
    found = objects(tmp_path, pools=RANGE, more="  scaling: {strategy: {hpa: {target: 12 per replica}}}\n")
    hpa = found["HorizontalPodAutoscaler/chat-nvidia-l4"]
    kubernetes_schemas.validate(hpa, "1.34", strict=True)
    assert hpa["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat-nvidia-l4"}
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (1, 4)
    (metric,) = hpa["spec"]["metrics"]
    assert metric["pods"] == {
        "metric": {"name": "requests_in_flight"},
        "target": {"type": "AverageValue", "averageValue": "12"},
    }
    assert "replicas" not in found["Deployment/chat-nvidia-l4"]["spec"]


@pytest.mark.parametrize(
    ("target", "value"),
    [("kv_cache_usage, target: 70%", "700m"), ("ttft, target: 2s", "2"), ("itl, target: 80ms", "80m")],
)
def test_units_of_hpa_targets(tmp_path: Path, target: str, value: str) -> None:
    found = objects(tmp_path, pools=RANGE, more=f"  scaling: {{strategy: {{hpa: {{metric: {target}}}}}}}\n")
    (metric,) = found["HorizontalPodAutoscaler/chat-nvidia-l4"]["spec"]["metrics"]
    assert metric["pods"]["target"]["averageValue"] == value


def test_one_policy_for_all_pools(tmp_path: Path) -> None:
    pools = "[{accelerator: nvidia-l4, replicas: {min: 1, max: 4}}, {name: fixed, accelerator: nvidia-l4, replicas: 2}]"
    scaling = (
        "  scaling:\n    strategy: slo\n    budget: {maxGPUs: 6, maxCostPerHour: 20 USD}\n    warmPool: 1\n"
        '    schedules: [{days: [Mon], from: "08:00", to: "19:00", timezone: Europe/Berlin, min: 2}]\n'
        "  slo: {ttft: {p99: 2s}, itl: {p95: 80ms}}\n"
    )
    found = objects(tmp_path, pools=pools, more=scaling)
    spec = found["ScalingPolicy/chat"]["spec"]
    assert [(one["kind"], one["name"], one["min"], one["max"]) for one in spec["targets"]] == [
        ("Deployment", "chat-nvidia-l4", 1, 4)
    ]
    assert spec["strategy"] == {"slo": {"utilization": "0.7", "downWindowSeconds": 300}}
    assert spec["budget"] == {"maxGPUs": 6, "maxCostPerHour": "20 USD"}
    assert spec["objectives"][0] == {"metric": "ttft", "percentile": "p99", "milliseconds": 2000}
    assert spec["schedules"][0]["start"] == "08:00"
    assert found["Deployment/chat-fixed"]["spec"]["replicas"] == 2
    assert "replicas" not in found["Deployment/chat-nvidia-l4"]["spec"]


def test_argo_cd_ignores_what_the_scaler_owns(tmp_path: Path) -> None:
    argocd = "argocd: {repoURL: https://git.example.com/x, path: deploy/prod}"
    more = "  scaling: {strategy: {kpa: {target: 12 per replica}}}\n"
    found = objects(tmp_path, pools=RANGE, more=more, environment=argocd)
    (rule,) = found["Application/prod-chat"]["spec"]["ignoreDifferences"]
    assert (rule["kind"], rule["name"], rule["jsonPointers"]) == ("Deployment", "chat-nvidia-l4", ["/spec/replicas"])


def test_an_objective_that_nothing_holds_is_refused(tmp_path: Path) -> None:
    assert [one.code for one in compiled(tmp_path, more="  slo: {ttft: {p99: 2s}}\n").diagnostics] == ["AC501"]


def test_from_git_to_a_scaler_the_number_never_drops(tmp_path: Path) -> None:
    file = "out/prod/chat/40-deployment-chat-nvidia-l4.yaml"

    def build(*options: str) -> dict:  # type: ignore[type-arg]
        done = run("build", "-o", "out", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return yaml.safe_load((tmp_path / file).read_text())  # type: ignore[no-any-return]

    compiled(tmp_path, pools="[{accelerator: nvidia-l4, replicas: 4}]")
    assert build()["spec"]["replicas"] == 4
    compiled(tmp_path, pools=RANGE, more="  scaling: {strategy: {kpa: {target: 12 per replica}}}\n")
    for _ in range(2):  # as often as it is built before the sync
        staged = build()
        assert staged["spec"]["replicas"] == 4
        assert staged["metadata"]["annotations"]["serving.aibrix.ai/replicas"] == "handed over"
        assert (tmp_path / "out/prod/chat/56-scalingpolicy-chat.yaml").exists()
    assert run("build", "-o", "out", "--check", cwd=tmp_path).returncode == 0
    done = build("--finish-handover")
    assert "replicas" not in done["spec"] and "serving.aibrix.ai/replicas" not in done["metadata"]["annotations"]
    assert "replicas" not in build()["spec"]


def test_a_new_service_begins_with_its_scaler(tmp_path: Path) -> None:
    compiled(tmp_path, pools=RANGE, more="  scaling: {strategy: {kpa: {target: 12 per replica}}}\n")
    assert run("build", "-o", "out", cwd=tmp_path).returncode == 0
    assert (
        "replicas"
        not in yaml.safe_load((tmp_path / "out/prod/chat/40-deployment-chat-nvidia-l4.yaml").read_text())["spec"]
    )
