"""Every example in every environment on a real API server: accepted, undrifted, scaled, restarted, deleted without a trace.

Pods are hollow here (see hollow.py): what is proven is what the control plane makes of emitted objects. That containers
work is for test_serving.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from aibrix_compile.ownership import GIT, SCALER
from tests.cluster import assets
from tests.cluster.api import Api, Refused, ready, wait
from tests.cluster.cluster import Cluster
from tests.cluster.gitops import compiled, drift, in_order, leftovers, namespaces, sync, wave
from tests.cluster.hollow import LABEL
from tests.cluster.watch import Object
from tests.golden.trees import EXAMPLES

CASES = [
    (folder.name, environment)
    for folder in sorted(EXAMPLES.iterdir())
    if (folder / "expected").is_dir()
    for environment in sorted(path.name for path in (folder / "expected").iterdir() if path.is_dir())
]
_OURS = "serving.aibrix.ai"


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Api:
    """With the kinds of others that examples declare under `apis`, as their clusters have them."""
    for name in assets.FOREIGN:
        for file in assets.foreign(name):
            sync(cluster.api, [yaml.safe_load(file.read_text("utf-8"))])
    return cluster.api


def _exists(api: Api, value: Object) -> bool:
    try:
        api.read_back(value)
    except Refused as refused:
        if refused.code != 404:
            raise
        return False
    return True


@contextmanager
def provided(api: Api, values: list[Object], hollow: bool = True) -> Iterator[list[str]]:
    """What a cluster has before us: namespaces, classes and claims that objects name and nobody emits.
    Yields what lies in namespaces of it, as `leftovers` spells it."""
    spaces = sorted(namespaces(values))
    before: list[Object] = [_named("v1", "Namespace", name) for name in spaces]
    for value in before:
        value["metadata"]["labels"] = {LABEL: "true"} if hollow else {}
    templates = [one["spec"]["template"] for one in values if one["kind"] == "Deployment"]
    for name in {found for one in templates if (found := one["spec"].get("priorityClassName"))}:
        before.append({**_named("scheduling.k8s.io/v1", "PriorityClass", name), "value": 1000})
    claims = [one for one in values if one["kind"] == "PersistentVolumeClaim"]
    for name in {one["spec"]["storageClassName"] for one in claims}:
        kind = _named("storage.k8s.io/v1", "StorageClass", name)
        before.append({**kind, "provisioner": "test.aibrix.ai/folder", "volumeBindingMode": "WaitForFirstConsumer"})
    theirs = []
    for namespace, name in _claims(values) - {
        (one["metadata"]["namespace"], one["metadata"]["name"]) for one in claims
    }:
        value = _named("v1", "PersistentVolumeClaim", name)
        value["metadata"]["namespace"] = namespace
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Ti"}}}
        before.append({**value, "spec": spec})
        theirs.append(f"PersistentVolumeClaim {namespace}/{name}")
    for value in before:
        api.apply(value, "somebody")
    try:
        yield theirs
    finally:
        for value in before:
            if value["kind"] == "Namespace":  # kept, empty: several examples have the same ones
                api.patch(value, {"metadata": {"labels": {LABEL: None}}})
            else:
                api.delete(value)


def _named(version: str, kind: str, name: str) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _claims(values: list[Object]) -> set[tuple[str, str]]:
    """Every claim that a pod template mounts: namespace, name."""
    return {
        (one["metadata"]["namespace"], volume["persistentVolumeClaim"]["claimName"])
        for one in values
        if one["kind"] == "Deployment"
        for volume in one["spec"]["template"]["spec"].get("volumes", ())
        if "persistentVolumeClaim" in volume
    }


def _platform(project: Path, folder: Path, environment: str) -> list[Object]:
    return compiled(project, folder / "platform", "-e", environment, command="platform")


@pytest.mark.parametrize(("example", "environment"), CASES, ids=[f"{one}-{env}" for one, env in CASES])
def test_example(example: str, environment: str, api: Api, tmp_path: Path) -> None:
    project = EXAMPLES / example
    platform = _platform(project, tmp_path, environment)
    services = compiled(project, tmp_path / "services", "-e", environment)
    everything = [*platform, *services]
    with provided(api, everything) as theirs:
        sync(api, platform)
        api.forget()
        sync(api, services)
        assert drift(api, everything) == []

        deployments = [one for one in services if one["kind"] == "Deployment"]
        for one in deployments:
            wait(f"{one['metadata']['name']} is available", lambda one=one: _available(api, one))
        for job in (one for one in services if one["kind"] == "Job"):
            wait("the weights are there", lambda job=job: api.read_back(job)["status"].get("succeeded"))
        assert drift(api, everything) == [], "after controllers have run"

        for one in deployments:
            if "replicas" not in one["spec"]:
                api.scale(one, 2, SCALER)
        assert drift(api, everything) == [], "after a scaler has scaled what Git does not own"

        for one in deployments[:1]:
            _restart_a_pod(api, one)
            if "replicas" in one["spec"]:  # what Git owns and somebody changes is seen: the comparison works
                api.scale(one, one["spec"]["replicas"] + 1, "somebody")
                assert any(".spec.replicas" in text for text in drift(api, [one]))
                healed = api.apply(one, GIT, force=True)
                assert healed["spec"]["replicas"] == one["spec"]["replicas"]
        assert drift(api, everything) == [], "after a pod was restarted"

        _remove(api, everything)
        wait("nothing is left", lambda: set(leftovers(api, namespaces(everything))) <= set(theirs), 90)


def _remove(api: Api, values: list[Object]) -> None:
    """As Argo CD prunes: backwards, kinds and namespaces last of all and not here; it confirms its own finalizer itself."""
    for value in reversed(in_order(values)):
        if value["kind"] == "Application":
            api.patch(value, {"metadata": {"finalizers": None}})
        if value["kind"] not in ("Namespace", "CustomResourceDefinition"):
            api.delete(value)


def _available(api: Api, deployment: Object) -> bool:
    status = api.read_back(deployment).get("status", {})
    wanted = deployment["spec"].get("replicas", 1)
    return bool(
        status.get("availableReplicas", 0) >= wanted and status.get("updatedReplicas") == status.get("replicas")
    )


def _restart_a_pod(api: Api, deployment: Object) -> None:
    namespace, labels = deployment["metadata"]["namespace"], deployment["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    before = ready(api.list("Pod", namespace, selector))
    api.delete({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": before[0], "namespace": namespace}})
    wait("another pod", lambda: len(set(ready(api.list("Pod", namespace, selector))) - {before[0]}) >= len(before))


def test_waves_stand_on_earlier_ones_and_kinds_go_with_all_of_their_objects(api: Api, tmp_path: Path) -> None:
    """Applied wave by wave, each wave is healthy before the next begins: 06 has weights in wave -1."""
    project = EXAMPLES / "06-multi-node"
    services = compiled(project, tmp_path / "services")
    platform = _platform(project, tmp_path, "prod")
    assert {wave(one) for one in services} == {-1, 0}
    with provided(api, [*platform, *services]):
        sync(api, platform)
        sync(api, [one for one in services if wave(one) < 0])
        (job,) = (one for one in services if one["kind"] == "Job")
        wait("the weights are there", lambda: api.read_back(job)["status"].get("succeeded"))
        sync(api, [one for one in services if wave(one) == 0])
        _remove(api, [*platform, *services])
        for value in (one for one in platform if one["kind"] == "CustomResourceDefinition"):
            api.delete(value)
            wait("the kind is gone", lambda value=value: not _exists(api, value))
    api.forget()


def test_a_truncated_field_is_seen(api: Api) -> None:
    """The comparison itself: a value, a missing key and a list of another length are all differences."""
    meta = {"name": "one", "namespace": "default"}
    value = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "1"}}
    sync(api, [value])
    assert drift(api, [value]) == []
    api.patch(value, {"data": {"a": "2", "b": "3"}})
    found = drift(api, [value])
    assert len(found) == 2 and "ConfigMap/one: .data.a is '2', not '1'" in found
    api.delete(value)
