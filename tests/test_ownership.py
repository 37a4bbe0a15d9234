"""The ownership table: what a scaler owns, Git does not set, and Argo CD does not mind."""

from aibrix_compile import ownership


def test_a_scaled_deployment_leaves_its_replicas_alone() -> None:
    deployment = {"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": 2, "template": {}}}
    assert ownership.trespasses(deployment, scaled=True) == [("spec", "replicas")]
    assert ownership.trespasses(deployment, scaled=False) == []
    assert ownership.trespasses({"kind": "Deployment", "spec": {"template": {}}}, scaled=True) == []


def test_argo_cd_is_told_in_both_forms() -> None:
    (rule,) = ownership.ignore_differences([("Deployment", "chat-l4")])
    assert rule == {
        "group": "apps",
        "kind": "Deployment",
        "name": "chat-l4",
        "jsonPointers": ["/spec/replicas"],
        "managedFieldsManagers": ["aibrix-scaler", "kube-controller-manager"],
    }


def test_objects_that_nobody_scales_are_not_mentioned() -> None:
    assert ownership.ignore_differences([("Service", "chat")]) == []
