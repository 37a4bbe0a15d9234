"""What a commit can destroy and what it can not; how a good one gets past a bad one."""

import shutil
import time
from pathlib import Path

import pytest

from tests.argocd.conftest import hollow
from tests.argocd.deploy import Deploy
from tests.argocd.server import IN_CLUSTER, NAMESPACE, ArgoCD, conditions, describe, operation
from tests.cluster.api import wait
from tests.cluster.watch import Object

SPACE, STAGING = "assistants", "assistants-staging"
KINDS = ("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount")
_APIS = {"NetworkPolicy": "networking.k8s.io/v1", "PodDisruptionBudget": "policy/v1"}


def world(argo: ArgoCD, space: str = SPACE, service: str = "") -> dict[tuple[str, str], str]:
    """(kind, name) -> uid of what the compiler made for a service, or for all."""
    label = "serving.aibrix.ai/service"
    selector = f"{label}={service}" if service else label
    return {
        (kind, one["metadata"]["name"]): one["metadata"]["uid"]
        for kind in KINDS
        for one in argo.api.list(kind, space, selector, _APIS.get(kind, ""))
    }


def test_an_empty_commit_changes_nothing(argo: ArgoCD, deploy: Deploy) -> None:
    before, began = world(argo), operation(argo.synced("prod-search"))
    commit = deploy.commit("nothing", "--allow-empty")
    assert operation(argo.synced("prod-search", commit)) == began
    assert world(argo) == before


def test_an_emptied_folder_deletes_nothing(argo: ArgoCD, deploy: Deploy) -> None:
    """Neither a folder without manifests nor one that is gone is a wish to have nothing."""
    argo.synced("prod-search")
    before, folder = world(argo), deploy.path("prod/search")
    for path in folder.iterdir():
        path.unlink()
    (folder / ".gitkeep").touch()
    commit = deploy.commit("all of a service's files are lost")
    argo.refresh("prod-search")
    lost = argo.until("prod-search", "refuses", lambda app: "SyncError" in conditions(app))
    assert lost["status"]["sync"]["revision"] == commit
    assert "wipe out all resources" in conditions(lost)["SyncError"]
    shutil.rmtree(folder)
    deploy.commit("the folder too")
    argo.refresh("prod-search", hard=True)
    lost = argo.until("prod-search", "complains", lambda app: "ComparisonError" in conditions(app))
    assert "app path does not exist" in conditions(lost)["ComparisonError"]
    time.sleep(5)
    assert world(argo) == before
    deploy.build()
    argo.synced("prod-search", deploy.commit("restored"))
    assert world(argo) == before


def test_a_good_commit_gets_past_a_bad_one(argo: ArgoCD, deploy: Deploy) -> None:
    """A sync that fails is tried for two minutes at its own commit, unless `retry.refresh` lets a new one in."""
    argo.synced("prod-search")
    bad = deploy.path("prod/search/99-configmap-bad.yaml")
    bad.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name, namespace: assistants}\ndata: {}\n")
    deploy.commit("a name that Kubernetes refuses")
    argo.refresh("prod-search")
    argo.until("prod-search", "fails", lambda app: app["status"]["operationState"].get("retryCount", 0) >= 2)
    bad.unlink()
    deploy.edit("services/search.yaml", "8192", "6144")
    deploy.build()
    commit, began = deploy.commit("a good one"), time.monotonic()
    argo.synced("prod-search", commit, seconds=45)  # the retries that are left would take 20 + 40 + 60 s
    print(f"recovered after {time.monotonic() - began:.0f} s")
    arguments = argo.api.get("Deployment", "search-l4", SPACE)["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--max-model-len=6144" in arguments


@pytest.fixture(scope="module")
def company(argo: ArgoCD, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Example 02, whose Applications are in Git too and are synced by one that a person made: two environments, of which
    `prod` is a cluster known by a name."""
    found = Deploy(tmp_path_factory.mktemp("company"), "02-environments")
    found.build()
    commit = found.commit("first")
    argo.register("prod-eu")
    argo.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "production"},
            "value": 1000,
        }
    )
    for environment in ("staging", "prod"):
        argo.apply(_root(found, environment))
        argo.synced(f"root-{environment}", commit, healthy=False)
    return found


def test_applications_are_as_argo_cd_keeps_them(argo: ArgoCD, company: Deploy) -> None:
    """It rewrites an Application that says what is the default anyway; one that is in Git would then differ for ever."""
    for environment in ("staging", "prod"):
        name = f"root-{environment}"
        before = operation(argo.synced(name, healthy=False))
        time.sleep(2)
        argo.refresh(name, hard=True)
        app = argo.application(name)
        assert app["status"]["sync"]["status"] == "Synced", describe(app)
        assert operation(argo.synced(name, healthy=False)) == before


def _root(deploy: Deploy, environment: str) -> Object:
    source = {"repoURL": deploy.url, "targetRevision": "main", "path": f"deploy/{environment}/argocd"}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": f"root-{environment}", "namespace": NAMESPACE},
        "spec": {
            "project": "llm",
            "source": source,
            "destination": {"server": IN_CLUSTER, "namespace": NAMESPACE},
            "syncPolicy": {"automated": {"prune": True, "selfHeal": True}, "syncOptions": ["ServerSideApply=true"]},
        },
    }


def test_services_may_come_before_their_platform(argo: ArgoCD, company: Deploy) -> None:
    """Nobody says in which order Applications are synced."""
    for service in ("summaries", "support-chat"):
        early = argo.until(f"staging-{service}", "retries", lambda app: "retryCount" in app["status"]["operationState"])
        assert f'namespaces "{STAGING}" not found' in early["status"]["operationState"]["message"]
    company.platform("-e", "staging")
    company.commit("the platform")
    for value in company.objects("staging/platform/argocd"):
        argo.apply(value)
    wait("the namespace", lambda: any(one["metadata"]["name"] == STAGING for one in argo.api.list("Namespace")))
    hollow(argo.cluster, STAGING)
    for service in ("summaries", "support-chat"):
        argo.synced(f"staging-{service}", seconds=90)
        assert ("Service", service) in world(argo, STAGING)


def test_a_cluster_with_a_name(argo: ArgoCD, company: Deploy) -> None:
    for service in ("summaries", "support-chat"):
        app = argo.synced(f"prod-{service}", seconds=90)
        assert app["spec"]["destination"]["name"] == "prod-eu"
        assert ("Service", service) in world(argo)


def test_a_removed_object_and_a_removed_service_go_alone(argo: ArgoCD, company: Deploy) -> None:
    argo.synced("prod-summaries")
    before = world(argo)
    company.edit("overlays/prod.yaml", "{accelerator: nvidia-l4, replicas: 2}", "{accelerator: nvidia-l4, replicas: 1}")
    company.build()
    argo.synced("prod-summaries", company.commit("one replica: nothing to disrupt"))
    less = world(argo)
    assert before.keys() - less.keys() == {("PodDisruptionBudget", "summaries-nvidia-l4")}
    assert {name: uid for name, uid in before.items() if name in less} == less

    mine = world(argo, service="summaries")
    assert len(mine) >= 6
    _remove(company.sources, "summaries")
    company.build()
    company.commit("summaries has had its time")
    for environment in ("prod", "staging"):
        argo.refresh(f"root-{environment}")
        argo.gone(f"{environment}-summaries")
    assert world(argo) == {name: uid for name, uid in less.items() if name not in mine}
    assert world(argo, STAGING, "summaries") == {}
    for environment in ("staging", "prod"):
        argo.synced(f"{environment}-support-chat")


def _remove(sources: Path, service: str) -> None:
    """A service and its overlays."""
    (sources / "services" / f"{service}.yaml").unlink()
    for path in (sources / "overlays").glob("*.yaml"):
        parts = path.read_text().split("---\n")
        path.write_text("---\n".join(part for part in parts if f"name: {service}}}" not in part))


def test_a_namespace_outlives_its_application(argo: ArgoCD) -> None:
    """Deleting the platform's Application leaves what services stand on."""
    before = world(argo)
    app = argo.application("prod-platform")
    argo.api.delete(app)
    argo.gone("prod-platform")
    time.sleep(2)
    assert argo.api.get("Namespace", SPACE)["status"]["phase"] == "Active"
    assert world(argo) == before
    kept = ("apiVersion", "kind", "spec")
    meta = {name: app["metadata"][name] for name in ("name", "namespace", "labels", "annotations")}
    argo.apply({name: app[name] for name in kept} | {"metadata": meta})
    argo.synced("prod-platform")
