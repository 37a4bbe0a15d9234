"""The Config Management Plugin: `aibrix-compile argocd generate`, run by the real plugin server from the emitted plugin.yaml."""

from pathlib import Path

import pytest

from tests.argocd.conftest import PLUGIN, hollow
from tests.argocd.deploy import Deploy
from tests.argocd.server import IN_CLUSTER, NAMESPACE, ArgoCD, conditions
from tests.cluster.watch import Object

SPACE = "assistants-plugin"
NAME = "by-plugin"


@pytest.fixture
def sources(argo: ArgoCD, tmp_path: Path) -> Deploy:
    """Example 02 uncompiled, in Git."""
    found = Deploy(tmp_path, "02-environments")
    found.edit("aibrix.yaml", "namespace: assistants-staging", f"namespace: {SPACE}")
    publish(found, "sources")
    hollow(argo.cluster, SPACE)
    return found


def publish(deploy: Deploy, message: str) -> str:
    deploy.copy_sources()
    return deploy.commit(message)


def application(deploy: Deploy) -> Object:
    parameters = [{"name": "environment", "string": "staging"}]
    source: Object = {"repoURL": deploy.url, "targetRevision": "main", "path": "sources"}
    source |= {"plugin": {"name": PLUGIN, "parameters": parameters}}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "annotations": {"argocd.argoproj.io/compare-options": "ServerSideDiff=true"},
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],
        },
        "spec": {
            "project": "llm",
            "source": source,
            "destination": {"server": IN_CLUSTER, "namespace": SPACE},
            "syncPolicy": {"automated": {"prune": True, "selfHeal": True}, "syncOptions": ["ServerSideApply=true"]},
        },
    }


def test_the_plugin(argo: ArgoCD, sources: Deploy) -> None:
    app = application(sources)
    argo.apply(app)
    argo.synced(NAME, seconds=90)
    assert argo.application(NAME)["status"]["sourceType"] == "Plugin"
    services = {one["metadata"]["uid"] for one in argo.api.list("Service", SPACE)}
    assert len(services) == 4

    sources.edit("services/summaries.yaml", "maxModelLen: 32768", "maxModelLen: many")
    publish(sources, "a mistake")
    argo.refresh(NAME)
    failed = argo.until(NAME, "complains", lambda one: "ComparisonError" in conditions(one))
    said = conditions(failed)["ComparisonError"]
    print(said)
    assert "1 error; first AC" in said and "services/summaries.yaml" in said
    assert {one["metadata"]["uid"] for one in argo.api.list("Service", SPACE)} == services

    sources.edit("services/summaries.yaml", "maxModelLen: many", "maxModelLen: 16384")
    argo.synced(NAME, publish(sources, "corrected"))
    engine = argo.api.get("Deployment", "summaries-nvidia-l4", SPACE)["spec"]["template"]["spec"]["containers"][0]
    assert "--max-model-len=16384" in engine["args"]

    argo.api.delete(app)
    argo.gone(NAME)
    assert argo.api.list("Service", SPACE) == []
