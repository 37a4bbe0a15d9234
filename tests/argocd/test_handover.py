"""From Git's number of replicas to a scaler's under a real Argo CD: not one replica is lost on the way."""

import time

import pytest

from tests.argocd.conftest import FIXED
from tests.argocd.deploy import Deploy
from tests.argocd.server import ArgoCD
from tests.argocd.test_sync import QUIET, SPACE, replicas, report

SCALER = """\
  pools: [{name: l4, accelerator: nvidia-l4, replicas: {min: 2, max: 6}}]
  scaling: {strategy: slo}
  slo: {ttft: {p99: 2s}}
"""


def shrunk(argo: ArgoCD, workload: str) -> list[str]:
    """What the Deployment controller says about removed replicas."""
    return [
        one["message"]
        for one in argo.api.list("Event", SPACE)
        if one["involvedObject"]["name"] == workload and one["message"].startswith("Scaled down")
    ]


def pods(argo: ArgoCD, service: str) -> set[str]:
    found = argo.api.list("Pod", SPACE, f"serving.aibrix.ai/service={service}")
    return {one["metadata"]["uid"] for one in found if "deletionTimestamp" not in one["metadata"]}


@pytest.mark.parametrize("decided", [5, 3], ids=["the scaler wants more", "the scaler wants the same"])
def test_hand_over(argo: ArgoCD, deploy: Deploy, decided: int) -> None:
    service = f"moved-{decided}"
    workload, app, file = f"{service}-l4", f"prod-{service}", deploy.sources / "services" / f"{service}.yaml"
    file.write_text(FIXED.replace("search", service))

    def publish(message: str, *words: str) -> str:
        """Compile, commit, and apply the Application that belongs to the commit."""
        said = deploy.build(*words)
        commit = deploy.commit(message)
        argo.apply(next(one for one in deploy.objects("prod/argocd") if one["metadata"]["name"] == app))
        argo.synced(app, commit, healthy=False)
        return said

    publish("three replicas")
    argo.synced(app)
    first = pods(argo, service)
    assert replicas(argo, workload) == len(first) == 3

    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + SCALER)
    assert "--finish-handover" in publish("a scaler takes over")
    report(argo, "ScalingPolicy", service, targets=[])
    argo.api.scale(argo.api.get("Deployment", workload, SPACE), decided, "aibrix-scaler")
    time.sleep(QUIET)
    argo.refresh(app, hard=True)
    argo.synced(app)
    assert replicas(argo, workload) == decided, "Git's number came back although a scaler owns it"

    deploy.edit(f"services/{service}.yaml", "p99: 2s", "p99: 3s")
    publish("another change meanwhile")
    assert replicas(argo, workload) == decided, "the sync of another change reset the number"

    publish("the scaler has it", "--finish-handover")
    report(argo, "ScalingPolicy", service, targets=[])
    time.sleep(QUIET)
    argo.refresh(app, hard=True)
    argo.synced(app)
    assert replicas(argo, workload) == decided, "the number was lost with Git's"
    assert (
        "replicas" not in deploy.path(f"prod/{service}/40-deployment-{workload}.yaml").read_text().split("template:")[0]
    )
    assert shrunk(argo, workload) == []
    assert first <= pods(argo, service), "replicas were replaced"

    argo.api.scale(argo.api.get("Deployment", workload, SPACE), 2, "aibrix-scaler")
    time.sleep(QUIET)
    assert replicas(argo, workload) == 2
