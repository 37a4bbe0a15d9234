"""One cluster with one Argo CD for all tests, and a project of four services that it syncs.

The project is example 04 (a scaler's and an autoscaler's service) with example 05's adapters and a service whose number of
replicas stands in Git. Pods are hollow: these tests are about objects, and no GPU or model is here.
"""

from collections.abc import Iterator

import pytest
import yaml

from tests.argocd.deploy import Deploy
from tests.argocd.server import ArgoCD
from tests.cluster.assets import foreign
from tests.cluster.cluster import Cluster
from tests.cluster.hollow import LABEL
from tests.cluster.node import Spec
from tests.cluster.watch import Object
from tests.toolchain import Missing, absent

PLUGIN = "aibrix-compile"
_LABEL = "cloud.google.com/gke-accelerator"
NODES = (
    Spec("l4-a", "10.244.0.21", 16, "a", {_LABEL: "nvidia-l4"}),
    Spec("l4-b", "10.244.0.22", 16, "b", {_LABEL: "nvidia-l4"}),
    Spec("l4-c", "10.244.0.23", 16, "c", {_LABEL: "nvidia-l4"}),
    Spec("l4-d", "10.244.0.24", 16, "a", {_LABEL: "nvidia-l4"}),
    Spec("a100-a", "10.244.0.25", 8, "a", {_LABEL: "nvidia-a100-80gb"}),
)
FIXED = """\
apiVersion: serving.aibrix.ai/v1alpha1
kind: ModelService
metadata: {name: search}
spec:
  model: {uri: "hf://Qwen/Qwen2.5-1.5B-Instruct", revision: 989aa7980e4cf806f80c7fef2b1adb7bc71aa306, servedName: search}
  engine: {name: vllm, version: 0.32.0, maxModelLen: 8192}
  pools: [{name: l4, accelerator: nvidia-l4, replicas: 3}]
"""
SERVICES = ("chat", "extract", "search", "support")


@pytest.fixture(scope="session")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Compiled and committed."""
    found = Deploy(tmp_path_factory.mktemp("deploy"), "04-scaling")
    found.add("05-lora", "support.yaml", "adapters/billing.yaml", "adapters/travel.yaml")
    (found.sources / "services" / "search.yaml").write_text(FIXED)
    found.edit("aibrix.yaml", "quota: 12", "quota: 40")
    found.platform()
    found.build()
    found.commit("first")
    return found


@pytest.fixture(scope="session")
def argo(deploy: Deploy) -> Iterator[ArgoCD]:
    """Everything applied in no order: what the services need comes while they are synced."""
    plugin = next(
        one for one in deploy.objects("prod/platform/argocd") if one["metadata"]["name"] == f"{PLUGIN}-plugin"
    )
    try:
        with (
            Cluster.start(nodes=NODES) as cluster,
            ArgoCD.start(cluster, {PLUGIN: plugin["data"]["plugin.yaml"]}) as found,
        ):
            hollow(cluster, "assistants")
            for path in foreign("prometheus-operator"):
                found.apply(yaml.safe_load(path.read_text()))
            found.project("llm")
            for value in (*deploy.objects("prod/argocd"), *deploy.objects("prod/platform/argocd")):
                found.apply(value)
            for service in SERVICES:
                found.synced(f"prod-{service}", healthy=False, seconds=120)
            yield found
    except Missing as missing:
        absent(str(missing))


def hollow(cluster: Cluster, name: str) -> None:
    """A namespace whose pods are ready without processes."""
    meta: Object = {"name": name, "labels": {LABEL: "true"}}
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta}, "test")
