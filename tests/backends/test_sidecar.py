"""The sidecar in a pod: what it has and the engine has not, who may reach it, and what changes without a restart."""

import json
from pathlib import Path
from typing import Any

from aibrix_compile.artifact import Object
from tests.backends import GATEWAY, compiled, objects

WORKLOAD = "Deployment/chat-nvidia-l4"


def adapters(*items: str, missing: str = "reject") -> str:
    rows = "".join(f"      - {{{item}}}\n" for item in items)
    return f"  adapters:\n    limits: {{maxLoaded: 4, maxCached: 16}}\n    whenMissing: {missing}\n    items:\n{rows}"


def built(folder: Path, *items: str) -> dict[str, Object]:
    return objects(folder, more=adapters(*items), environment=GATEWAY)


def pod(found: dict[str, Object]) -> Any:
    return found[WORKLOAD]["spec"]["template"]["spec"]


def runtime(found: dict[str, Object]) -> Any:
    return json.loads(found["ConfigMap/chat-engine"]["data"]["runtime.json"])


A = "name: a, uri: s3://adapters/a, credentials: {secret: s3-keys}"


def test_the_engine_has_neither_tokens_nor_secrets(tmp_path: Path) -> None:
    spec = pod(built(tmp_path, A))
    (engine,) = spec["containers"]
    sidecar = next(one for one in spec["initContainers"] if one["name"] == "runtime")
    assert sidecar["restartPolicy"] == "Always", "a native sidecar: it starts before the engine and ends after it"
    volumes = {one["name"]: one for one in spec["volumes"]}
    secret = {name for name, one in volumes.items() if "secret" in one or "projected" in one}
    assert secret == {"runtime-identity", "secret-s3-keys"}
    assert secret <= {one["name"] for one in sidecar["volumeMounts"]}
    assert not secret & {one["name"] for one in engine["volumeMounts"]}
    assert volumes["secret-s3-keys"]["secret"]["optional"], "a missing one fails its adapters, not the replica"
    mounts = {one["name"]: one for one in engine["volumeMounts"]}
    assert mounts["adapters"]["readOnly"] and "readOnly" not in mounts["runtime"]
    assert spec["automountServiceAccountToken"] is False
    for one in (engine, sidecar):
        security = one["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]


def test_the_engine_finds_the_plugin_and_its_socket(tmp_path: Path) -> None:
    env = {one["name"]: one.get("value") for one in pod(built(tmp_path, A))["containers"][0]["env"]}
    assert env["AIBRIX_LOAD_SOCKET"] == "/run/aibrix/load.sock" and "/run/aibrix/plugins" in str(env["PYTHONPATH"])


def test_only_pickers_envoy_and_controllers_reach_it(tmp_path: Path) -> None:
    rules = built(tmp_path, A)["NetworkPolicy/chat"]["spec"]["ingress"]
    (rule,) = [one for one in rules if one["ports"] == [{"port": "runtime", "protocol": "TCP"}]]
    assert len(rule["from"]) == 2 and all("podSelector" in one and "namespaceSelector" in one for one in rule["from"])
    rights = runtime(built(tmp_path, A))["access"]["subjects"]
    assert [name for name, some in rights.items() if "load" in some] == ["system:serviceaccount:llm:aibrix-adapters"]


def test_a_new_bucket_restarts_nothing_and_a_new_secret_does(tmp_path: Path) -> None:
    """A Secret is a mount of the pod."""
    before = built(tmp_path, A)
    bucket = built(tmp_path, A, "name: b, uri: s3://others/b, credentials: {secret: s3-keys}")
    assert runtime(before)["adapters"]["allow"] == ["s3://adapters/"]
    assert runtime(bucket)["adapters"]["allow"] == ["s3://adapters/", "s3://others/"]
    assert bucket[WORKLOAD] == before[WORKLOAD]
    secret = built(tmp_path, A, "name: b, uri: s3://others/b, credentials: {secret: other}")
    assert secret[WORKLOAD] != before[WORKLOAD]


def test_without_adapters_it_only_tells_the_load(tmp_path: Path) -> None:
    found = objects(tmp_path, images=True, environment=GATEWAY)
    assert runtime(found)["adapters"] is None
    assert not [one for one in pod(found)["volumes"] if one["name"] == "adapters"]


def test_without_an_image_adapters_are_refused_at_their_line(tmp_path: Path) -> None:
    found = compiled(tmp_path, more=adapters(A), environment=GATEWAY, images=False).diagnostics
    assert [(one.code, one.span.file) for one in found if "sidecar" in one.message] == [("AC502", "services/chat.yaml")]


def test_who_waits_for_an_adapter_waits_within_bounds(tmp_path: Path) -> None:
    """Also where nobody wrote any; in the picker's file as in `explain`."""
    for missing, waits in (("hold", True), ("reject", False), ("base", False)):
        result = compiled(tmp_path, more=adapters(A, missing=missing), environment=GATEWAY)
        (service,) = result.plans[0].services
        assert (service.routing.hold_seconds == 60) is waits
