"""Weights that are kept: the claim, the Job that fills it, and who reads it."""

from pathlib import Path

from kubernetes_validate import utils as kubernetes_schemas

from tests.backends import compiled, objects

REVISION = "a09a35458c702b33eeacc393d103063234e8bc28"


def model(loading: str, revision: str = REVISION) -> str:
    return f"{{uri: hf://Qwen/Qwen2.5-7B-Instruct, revision: {revision}, loading: {loading}}}"


CREATE = model("{method: download, cache: {path: /llm, create: {size: 40Gi, storageClass: rwx}}}")


def test_a_claim_is_made_filled_and_read(tmp_path: Path) -> None:
    found = objects(tmp_path, model=CREATE, pools="[{accelerator: nvidia-l4, replicas: 2}]")
    claim, deployment = found["PersistentVolumeClaim/chat-weights"], found["Deployment/chat-nvidia-l4"]
    (job,) = (one for name, one in found.items() if name.startswith("Job/"))
    for one in (claim, job):
        kubernetes_schemas.validate(one, "1.34", strict=True)
        assert one["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] == "-1"
    assert "Delete=confirm" in claim["metadata"]["annotations"]["argocd.argoproj.io/sync-options"]
    target = f"/models/llm/Qwen/Qwen2.5-7B-Instruct/{REVISION}"
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][-1] == target
    pod = deployment["spec"]["template"]["spec"]
    assert f"--model={target}" in pod["containers"][0]["args"]
    assert {"name": "model", "mountPath": "/models", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert "initContainers" not in pod


def test_another_revision_is_another_job_and_nothing_else_is(tmp_path: Path) -> None:
    def job(**spec: str) -> str:
        return next(name for name in objects(tmp_path, **spec) if name.startswith("Job/"))

    first = job(model=CREATE)
    assert job(model=CREATE, pools="[{accelerator: nvidia-l4, replicas: 2}]") == first
    assert job(model=CREATE.replace(REVISION, "b" * 40)) != first


def test_an_existing_claim_is_somebody_elses(tmp_path: Path) -> None:
    found = objects(tmp_path, model=model("{method: download, cache: {claim: weights}}"))
    assert not [name for name in found if name.startswith("PersistentVolumeClaim/")]
    assert [name for name in found if name.startswith("Job/")]


def test_an_engine_that_fetches_for_itself_keeps_its_cache_there(tmp_path: Path) -> None:
    found = objects(tmp_path, model=model("{cache: {claim: weights}}"))
    assert not [name for name in found if name.startswith("Job/")]
    container = found["Deployment/chat-nvidia-l4"]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "HF_HOME", "value": "/models/huggingface"} in container["env"]
    assert {"name": "model", "mountPath": "/models"} in container["volumeMounts"]


def test_a_claim_must_hold_the_weights(tmp_path: Path) -> None:
    result = compiled(tmp_path, model=CREATE.replace("40Gi", "10Gi"))
    assert [one.code for one in result.diagnostics] == ["AC301"]


def test_weights_that_are_not_fetched_are_not_kept(tmp_path: Path) -> None:
    own = "{uri: s3://models/qwen, servedName: Qwen/Qwen2.5-7B-Instruct, loading: {cache: {claim: weights}}}"
    assert [one.code for one in compiled(tmp_path, model=own).diagnostics] == ["AC218"]
