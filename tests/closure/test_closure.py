"""The closure check: a whole example has nothing dangling, and breaking any one reference is found, once, where it is."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aibrix_compile.artifact import Artifact, External
from aibrix_compile.closure import unresolved
from aibrix_compile.compiler import compile_workspace
from aibrix_compile.loading import load

EXAMPLES = Path(__file__).parents[2] / "examples"
Objects = dict[str, Any]


def _example(name: str, environment: str) -> tuple[list[Artifact], list[External]]:
    from aibrix_compile.backends import kubernetes

    result = compile_workspace(load([], EXAMPLES / name), build=True, only=[environment])
    (plan,) = result.plans
    return result.artifacts, [one for service in plan.services for one in kubernetes.externals(service)]


ARTIFACTS, EXTERNALS = _example("02-environments", "prod")


def test_nothing_dangles_in_an_example() -> None:
    assert unresolved(ARTIFACTS, EXTERNALS) == []


def _find(objects: list[Objects], kind: str, name: str = "support-chat") -> Objects:
    return next(one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(name))


def _deployment(objects: list[Objects]) -> Objects:
    return _find(objects, "Deployment", "support-chat-l4")


def _pod(objects: list[Objects]) -> Objects:
    return _deployment(objects)["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def _engine(objects: list[Objects]) -> Objects:
    return _pod(objects)["containers"][0]  # type: ignore[no-any-return]


BREAKS: dict[str, tuple[Callable[[list[Objects]], object], str]] = {
    "service account": (lambda o: _pod(o).update(serviceAccountName="nobody"), "refers to ServiceAccount nobody"),
    "config map": (lambda o: _pod(o)["volumes"][2]["configMap"].update(name="gone"), "refers to ConfigMap gone"),
    "config map entry": (
        lambda o: _pod(o)["volumes"][2]["configMap"].update(items=[{"key": "stop.py", "path": "x"}]),
        'reads "stop.py" of ConfigMap support-chat-engine',
    ),
    "claim": (
        lambda o: _pod(o)["volumes"].__setitem__(0, {"name": "scratch", "persistentVolumeClaim": {"claimName": "x"}}),
        "PersistentVolumeClaim x",
    ),
    "secret": (
        lambda o: _engine(o)["env"].append({"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}),
        "refers to Secret x",
    ),
    "priority class": (lambda o: _pod(o).update(priorityClassName="vip"), "refers to PriorityClass vip"),
    "pull secret": (lambda o: _pod(o).update(imagePullSecrets=[{"name": "x"}]), "refers to Secret x"),
    "later wave": (
        lambda o: _find(o, "ServiceAccount", "support-chat-l4")["metadata"]["annotations"].update(
            {"argocd.argoproj.io/sync-wave": "1"}
        ),
        "synced in a later wave",
    ),
    "volume": (lambda o: _engine(o)["volumeMounts"].append({"name": "x", "mountPath": "/x"}), 'mounts volume "x"'),
    "unused volume": (
        lambda o: _pod(o)["volumes"].append({"name": "x", "emptyDir": {}}),
        'defines volume "x", which no container mounts',
    ),
    "mount path": (
        lambda o: _engine(o)["volumeMounts"].append({"name": "tmp", "mountPath": "/scratch"}),
        "two volumeMounts with mountPath /scratch",
    ),
    "own labels": (
        lambda o: _deployment(o)["spec"].update(selector={"matchLabels": {"serving.aibrix.ai/pool": "x"}}),
        "which its own pods do not have",
    ),
    "spread": (
        lambda o: _pod(o)["topologySpreadConstraints"][0]["labelSelector"].update(matchLabels={"a": "b"}),
        "spreads pods with a=b, which its own pods do not have",
    ),
    "probe port": (lambda o: _engine(o)["livenessProbe"]["httpGet"].update(port="metrics"), "asks port metrics"),
    "container twice": (lambda o: _pod(o)["containers"].append({"name": "engine"}), "two containers named engine"),
    "service selector": (
        lambda o: _find(o, "Service")["spec"]["selector"].update({"serving.aibrix.ai/service": "x"}),
        "namespace assistants has none",
    ),
    "service port": (lambda o: _find(o, "Service")["spec"]["ports"][0].update(targetPort="grpc"), "sends to port grpc"),
    "disruption budget": (
        lambda o: _find(o, "PodDisruptionBudget", "support-chat-l4")["spec"]["selector"]["matchLabels"].update(
            {"serving.aibrix.ai/pool": "x"}
        ),
        "PodDisruptionBudget support-chat-l4 selects",
    ),
    "label value": (
        lambda o: _find(o, "ConfigMap", "support-chat-engine")["metadata"]["labels"].update(team="not ok"),
        "is no value of a label",
    ),
    "object name": (
        lambda o: _find(o, "PodDisruptionBudget", "support-chat-l4")["metadata"].update(name="A_b"),
        "has a name that Kubernetes refuses",
    ),
    "config map size": (
        lambda o: _find(o, "ConfigMap", "support-chat-engine")["data"].update(x="a" * 2**20),
        "larger than 1 MiB",
    ),
    "application folder": (
        lambda o: _find(o, "Application")["spec"]["source"].update(path="deploy/prod/gone"),
        "into which nothing is written",
    ),
    "application path": (
        lambda o: _find(o, "Application")["spec"]["source"].update(path="../x/support-chat"),
        "no folder inside a repository",
    ),
    "ignored object": (
        lambda o: _find(o, "Application")["spec"].update(
            ignoreDifferences=[{"group": "apps", "kind": "Deployment", "name": "x"}]
        ),
        "ignores differences of Deployment x",
    ),
    "scaled object": (
        lambda o: o.append(
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "h", "namespace": "assistants"},
                "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "x"}},
            }
        ),
        "refers to Deployment x",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_one_broken_reference_is_found_once(name: str) -> None:
    change, words = BREAKS[name]
    objects = [copy.deepcopy(artifact.object) for artifact in ARTIFACTS]
    change(objects)
    paths = [artifact.path for artifact in ARTIFACTS] + ["more.yaml"]
    broken = [Artifact(path, value) for path, value in zip(paths, objects, strict=False)]
    (found,) = unresolved(broken, EXTERNALS)
    assert words in found.message
    assert found.artifact.object in objects
    value: Any = found.artifact.object
    for step in found.path[:-1]:
        value = value[step]  # the path leads into the object


def test_two_objects_of_one_name() -> None:
    twice = [*ARTIFACTS, Artifact("elsewhere.yaml", ARTIFACTS[0].object)]
    (found,) = unresolved(twice, EXTERNALS)
    assert "is there twice" in found.message


def test_what_is_declared_to_be_somebody_elses_is_enough() -> None:
    assert unresolved(ARTIFACTS, [one for one in EXTERNALS if one.kind != "Secret"]) != []
