"""Every kind of risk has a change that it is said of, and one beside it that it is not said of."""

from pathlib import Path

import pytest

from aibrix_compile.diff.risks import KINDS
from tests.diff import FILES, difference, edited

SCALED = edited(
    FILES, ("replicas: 2}]", "replicas: {min: 2, max: 4}}]\n  scaling: {strategy: {kpa: {target: 8 per replica}}}")
)
WATCHED = edited(
    FILES,
    ("replicas: 2}]", "replicas: 2}]\n  slo: {ttft: {p99: 2s}}\n  monitoring: {podMonitor: true, alerts: true}"),
)
ADAPTERS = edited(
    FILES,
    ("maxModelLen: 8192", "maxModelLen: 4096"),
    (
        "replicas: 2}]",
        "replicas: 2}]\n  adapters: {items: [{name: a, uri: s3://b/a, replicas: all}, {name: b, uri: s3://b/b, replicas: all}]}",
    ),
)
CACHED = edited(
    FILES,
    (
        "servedName: chat",
        "servedName: chat, loading: {method: download, cache: {create: {size: 200Gi, storageClass: rwx}}}",
    ),
)
UNLIMITED = edited(FILES, (", quota: 12", ""), ("replicas: 2}]", "replicas: 2}]\n  rollout: {maxUnavailable: 0}"))
TWO = edited(
    FILES | {"services/other.yaml": FILES["services/chat.yaml"].replace("chat", "other")}, ("quota: 12", "quota: 5")
)

CASES = {
    # kind -> files, edits, what the line says
    "outage": (FILES, [("name: l4,", "name: new,")], "no replica answers until a new one has started, ~7 min"),
    "storage-deleted": (
        CACHED,
        [(", cache: {create: {size: 200Gi, storageClass: rwx}}", "")],
        "chat-weights is deleted",
    ),
    "storage-refused": (
        CACHED,
        [("storageClass: rwx", "storageClass: other")],
        "another storageClassName of the claim",
    ),
    "served-name-changed": (
        FILES,
        [("servedName: chat", "servedName: talk")],
        "ask for chat get 404; the model is called talk",
    ),
    "capacity-gap": (
        edited(FILES, ("replicas: 2}]", "replicas: 2}, {name: more, accelerator: nvidia-l4, replicas: 1}]")),
        [("name: more", "name: other")],
        "2 of 3 replicas answer until new ones have started",
    ),
    "fewer-replicas": (FILES, [("replicas: 2", "replicas: 1")], "at least 1 replica instead of 2"),
    "model-changed": (
        FILES,
        [
            (
                "Qwen2.5-7B-Instruct, revision: a09a35458c702b33eeacc393d103063234e8bc28",
                "Qwen2.5-1.5B-Instruct, revision: 989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
            )
        ],
        "another model answers: hf://Qwen/Qwen2.5-1.5B-Instruct instead of hf://Qwen/Qwen2.5-7B-Instruct",
    ),
    "revision-changed": (FILES, [("a09a35458c", "b09a35458c")], "other weights answer: revision b09a35458c"),
    "engine-changed": (FILES, [("0.32.0", "0.33.0")], "engine vllm 0.33.0 instead of vllm 0.32.0"),
    "shorter-context": (FILES, [("8192", "4096")], "more than 4096 tokens are refused, 8192 were allowed"),
    "adapter-removed": (ADAPTERS, [(", {name: b, uri: s3://b/b, replicas: all}", "")], "requests for them fail: b"),
    "adapter-changed": (ADAPTERS, [("uri: s3://b/b", "uri: s3://b/c")], "their answers change: b"),
    "scaler-removed": (
        SCALED,
        [("{min: 2, max: 4}", "2"), ("\n  scaling: {strategy: {kpa: {target: 8 per replica}}}", "")],
        "Git sets 2 replicas of pool l4 at once, whatever its scaler has made of them (up to 4)",
    ),
    "pool-removed": (
        edited(FILES, ("replicas: 2}]", "replicas: 2}, {name: more, accelerator: nvidia-l4}]")),
        [(", {name: more, accelerator: nvidia-l4}", "")],
        "pool more is removed",
    ),
    "lower-maximum": (SCALED, [("max: 4", "max: 3")], "at most 3 replicas instead of 4"),
    "spot": (FILES, [("replicas: 2", "replicas: 2, spot: true")], "pool l4 runs on interruptible nodes"),
    "surge": (UNLIMITED, [("8192", "9000")], "restarts need 1 more nvidia-l4 GPU at once, the quota is unknown"),
    "quota-full": (FILES, [("quota: 12", "quota: 2")], "2 of 2 nvidia-l4 GPUs may be in use"),
    "slo-loosened": (WATCHED, [("p99: 2s", "p99: 3s")], "the objective ttft p99 is 3 s instead of 2 s"),
    "alert-removed": (WATCHED, [("alerts: true", "alerts: false, dashboard: true")], "alerts are removed: "),
    "disruption-budget-removed": (
        FILES,
        [("replicas: 2", "replicas: 1")],
        "pool l4 has no PodDisruptionBudget any more",
    ),
}


def risks(folder: Path, before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    found = difference(folder, before, after)
    every = [one.risk for one in found.risks] + [risk for one in found.services for risk in one.risks]
    return {risk.kind: risk.line.show() for risk in every}


def test_every_kind_has_a_case() -> None:
    assert set(CASES) | {"service-removed"} == set(KINDS)


@pytest.mark.parametrize("kind", CASES)
def test_a_risk_is_said_of_the_change_and_not_of_its_opposite(kind: str, tmp_path: Path) -> None:
    before, edits, words = CASES[kind]
    after = edited(before, *edits)
    assert words in risks(tmp_path / "there", before, after).get(kind, ""), kind
    symmetric = {"served-name-changed", "model-changed", "revision-changed", "engine-changed", "adapter-changed"}
    symmetric |= {"storage-refused", "surge", "outage", "capacity-gap"}
    assert (kind in risks(tmp_path / "back", after, before)) is (kind in symmetric)


def test_a_removed_service_loses_its_clients(tmp_path: Path) -> None:
    after = {"aibrix.yaml": TWO["aibrix.yaml"], "services/other.yaml": TWO["services/other.yaml"]}
    assert risks(tmp_path, TWO, after) == {"service-removed": "the service is removed: clients of chat get 404"}


def test_a_new_service_risks_nothing(tmp_path: Path) -> None:
    before = {"aibrix.yaml": TWO["aibrix.yaml"], "services/other.yaml": TWO["services/other.yaml"]}
    assert risks(tmp_path, before, TWO) == {}


def test_surges_that_fit_alone_may_not_fit_together(tmp_path: Path) -> None:
    found = risks(tmp_path / "two", TWO, edited(TWO, ("8192", "9000")))
    assert found == {
        "surge": "restarts need 2 more nvidia-l4 GPUs at once, the quota leaves 1: pods that find none wait"
    }
    alone = TWO | {"services/chat.yaml": TWO["services/chat.yaml"].replace("8192", "9000")}
    assert risks(tmp_path / "one", TWO, alone) == {}


def test_a_quota_is_full_when_the_smallest_replica_finds_no_room(tmp_path: Path) -> None:
    large = edited(
        FILES, ("replicas: 2}]", "replicas: 2}, {name: two, accelerator: nvidia-l4, parallelism: {tensor: 2}}]")
    )
    assert "quota-full" not in risks(tmp_path / "one", large, edited(large, ("quota: 12", "quota: 5")))
    assert "quota-full" in risks(tmp_path / "two", large, edited(large, ("quota: 12", "quota: 4")))


def test_one_replica_without_room_is_an_outage(tmp_path: Path) -> None:
    one = edited(FILES, ("replicas: 2", "replicas: 1"), ("quota: 12", "quota: 1"))
    found = risks(tmp_path / "full", one, edited(one, ("8192", "9000")))
    assert found == {"outage": "no replica answers until a new one has started, ~12 min"}
    room = edited(one, ("quota: 1}", "quota: 2}"))
    assert risks(tmp_path / "room", room, edited(room, ("8192", "9000"))) == {}


def test_a_claim_can_grow_and_not_shrink(tmp_path: Path) -> None:
    assert "storage-refused" not in risks(tmp_path / "grow", CACHED, edited(CACHED, ("200Gi", "300Gi")))
    found = risks(tmp_path / "shrink", CACHED, edited(CACHED, ("200Gi", "100Gi")))
    assert found["storage-refused"] == "Kubernetes refuses to make the claim chat-weights smaller: the sync fails"
