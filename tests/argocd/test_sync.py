"""Argo CD makes the cluster what Git says, keeps it so, and leaves alone what a controller owns."""

import time

import pytest

from tests.argocd.conftest import SERVICES
from tests.argocd.deploy import Deploy
from tests.argocd.server import NAMESPACE, ArgoCD, health, operation
from tests.cluster.api import wait
from tests.cluster.watch import Object

SPACE = "assistants"
QUIET = 3.0  # seconds; a difference is healed in 1 to 2


def replicas(argo: ArgoCD, name: str) -> int:
    return int(argo.api.get("Deployment", name, SPACE)["spec"]["replicas"])


def report(argo: ArgoCD, kind: str, service: str, **status: object) -> None:
    """What a controller writes once it has read a service's objects."""
    for one in argo.api.list(kind, SPACE, f"serving.aibrix.ai/service={service}", "serving.aibrix.ai/v1alpha1"):
        seen = {"observedGeneration": one["metadata"]["generation"], **status}
        argo.api.patch(one, {"status": seen}, subresource="status", manager="a controller")


def test_the_platform(argo: ArgoCD) -> None:
    for name in ("aibrix-crds", "prod-platform"):
        argo.synced(name)
    config = argo.api.get("ConfigMap", "argocd-cm", NAMESPACE)["data"]
    assert "resource.exclusions" in config, "our part of argocd-cm replaced the rest"
    assert "resource.customizations.health.serving.aibrix.ai_ScalingPolicy" in config


def test_services_wait_for_their_controllers_and_no_longer(argo: ArgoCD) -> None:
    """Healthy at once without a controller; with one, once it has reported: by the emitted Lua."""
    argo.synced("prod-search", seconds=120)
    argo.synced("prod-extract", seconds=120)
    for name, kind, said in (
        ("prod-chat", "ScalingPolicy", "the scaler has not reported yet"),
        ("prod-support", "AdapterSet", "the adapters controller has not reported yet"),
    ):
        app = argo.synced(name, healthy=False, seconds=120)
        assert app["status"]["health"]["status"] == "Progressing"
        judged = [found for (of, _), found in health(app).items() if of == kind]
        assert judged and set(judged) == {("Progressing", said)}
    targets = [{"name": "chat-l4", "desired": 2, "ready": 2}, {"name": "chat-a100", "desired": 0, "ready": 0}]
    report(argo, "ScalingPolicy", "chat", targets=targets)
    report(argo, "AdapterSet", "support", counts={"desired": 4, "loaded": 4, "failed": 0})
    assert health(argo.synced("prod-chat"))["ScalingPolicy", "chat"] == ("Healthy", "2 of 2 replicas are ready")
    sets = {found for (of, _), found in health(argo.synced("prod-support")).items() if of == "AdapterSet"}
    assert sets == {("Healthy", "4 of 4 adapters are loaded")}


def test_a_degraded_controller_shows(argo: ArgoCD) -> None:
    bad = {"type": "Degraded", "status": "True", "reason": "NoMetrics", "message": "no metrics for 60 s"}
    report(argo, "ScalingPolicy", "chat", conditions=[bad])
    argo.until("prod-chat", "is Degraded", lambda app: app["status"]["health"]["status"] == "Degraded")
    assert health(argo.application("prod-chat"))["ScalingPolicy", "chat"] == ("Degraded", "no metrics for 60 s")
    report(argo, "ScalingPolicy", "chat", conditions=[])
    argo.synced("prod-chat")


@pytest.mark.parametrize("name", [f"prod-{service}" for service in SERVICES] + ["prod-platform", "aibrix-crds"])
def test_nothing_to_do_is_nothing_done(argo: ArgoCD, name: str) -> None:
    """What the API server makes of our objects is what they say: no difference, so no second operation."""
    before = operation(argo.synced(name, healthy=False))
    argo.refresh(name, hard=True)
    assert operation(argo.synced(name, healthy=False)) == before


@pytest.mark.parametrize(
    ("app", "workload", "manager"),
    [("prod-chat", "chat-l4", "aibrix-scaler"), ("prod-extract", "extract-nvidia-l4", "kube-controller-manager")],
)
def test_a_scalers_number_stays(argo: ArgoCD, deploy: Deploy, app: str, workload: str, manager: str) -> None:
    value = argo.api.get("Deployment", workload, SPACE)
    before = operation(argo.synced(app, healthy=False))
    for number in (4, 3):
        argo.api.scale(value, number, manager)
        time.sleep(QUIET)
        argo.refresh(app, hard=True)
        assert operation(argo.synced(app, healthy=False)) == before, "a scaler's number was taken for a difference"
        assert replicas(argo, workload) == number
    service = app.removeprefix("prod-")
    file = f"services/{service}.yaml"
    old, new = ("16384", "12288") if service == "chat" else ("8192", "4096")
    deploy.edit(file, f"maxModelLen: {old}", f"maxModelLen: {new}")
    deploy.build()
    argo.synced(app, deploy.commit("a shorter context"), healthy=False)
    arguments = argo.api.get("Deployment", workload, SPACE)["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--max-model-len={new}" in arguments
    assert replicas(argo, workload) == 3, "the sync of another change reset a scaler's number"
    argo.api.scale(value, 2, manager)
    time.sleep(QUIET)
    argo.synced(app, healthy=False)
    assert replicas(argo, workload) == 2


def test_a_hand_edit_is_undone(argo: ArgoCD) -> None:
    argo.synced("prod-search")
    value = argo.api.get("Deployment", "search-l4", SPACE)
    image = value["spec"]["template"]["spec"]["containers"][0]["image"]
    argo.cluster.kubectl("set", "image", "deployment/search-l4", "engine=example.com/other:1", f"--namespace={SPACE}")

    def undone() -> bool:
        now = argo.api.get("Deployment", "search-l4", SPACE)
        return bool(now["spec"]["template"]["spec"]["containers"][0]["image"] == image)

    wait("the image of Git", undone, 60)
    argo.synced("prod-search")


def test_a_number_in_git_is_not_a_scalers(argo: ArgoCD) -> None:
    """Without scaling, a scale by hand is an edit like any other."""
    argo.synced("prod-search")
    argo.api.scale(argo.api.get("Deployment", "search-l4", SPACE), 1, "somebody")
    wait("the number of Git", lambda: replicas(argo, "search-l4") == 3, 60)
    argo.synced("prod-search")


def test_a_deleted_service_comes_back(argo: ArgoCD) -> None:
    argo.synced("prod-extract")
    old = argo.api.get("Service", "extract", SPACE)
    argo.api.delete(old)

    def back() -> bool:
        return any(
            _uid(one) != _uid(old) for one in argo.api.list("Service", SPACE) if one["metadata"]["name"] == "extract"
        )

    wait("the Service", back, 60)
    argo.synced("prod-extract")


def _uid(value: Object) -> str:
    return str(value["metadata"]["uid"])
