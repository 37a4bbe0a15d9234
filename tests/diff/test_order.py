"""What Argo CD does, first to last."""

from pathlib import Path

import pytest

from tests.diff import FILES, difference, edited, only_service

CACHE = ", loading: {method: download, cache: {create: {size: 200Gi}}}"
CACHED = edited(FILES, ("servedName: chat", f"servedName: chat{CACHE}"))
NONE = {
    "aibrix.yaml": FILES["aibrix.yaml"],
    "services/other.yaml": FILES["services/chat.yaml"].replace("chat", "other"),
}
ROLL = "then the controllers replace the pods of l4"
JOB = "chat-prefetch-"

CASES = {
    "a change": (FILES, edited(FILES, ("8192", "4096")), ["wave 0: changes Deployment chat-l4", ROLL]),
    "a new service": (
        NONE,
        NONE | FILES,
        [
            "its Application is created, and syncs the rest",
            "wave 0: creates ServiceAccount chat-l4, ConfigMap chat-engine, Service chat-headless, Service chat,"
            " NetworkPolicy chat, Deployment chat-l4 and 1 more",
        ],
    ),
    "a removed service": (
        NONE | FILES,
        NONE,
        ["its Application is deleted, whose finalizer deletes the service's 7 objects"],
    ),
    "a removed service with weights": (
        NONE | CACHED,
        NONE,
        [
            "its Application is deleted, whose finalizer deletes the service's 9 objects",
            "nothing is deleted before somebody confirms the deletion of its claim in Argo CD",
        ],
    ),
    "a volume comes first": (
        FILES,
        CACHED,
        [
            f"wave -1: creates PersistentVolumeClaim chat-weights, Job {JOB}*; goes on when the Job is complete, at most 30 min",
            "wave 0: changes Deployment chat-l4",
            ROLL,
        ],
    ),
    "a volume goes when somebody confirms": (
        CACHED,
        FILES,
        [
            f"wave -1: deletes PersistentVolumeClaim chat-weights, Job {JOB}*; waits until somebody confirms it",
            "wave 0: changes Deployment chat-l4",
            ROLL,
        ],
    ),
    "what goes, goes in the reverse order of waves": (
        CACHED,
        edited(FILES, ("name: l4,", "name: new,")),
        [
            "wave -1: deletes ServiceAccount chat-l4, Deployment chat-l4, PodDisruptionBudget chat-l4",
            f"wave 0: deletes PersistentVolumeClaim chat-weights, Job {JOB}*; waits until somebody confirms it",
            "wave 0: creates ServiceAccount chat-new, Deployment chat-new, PodDisruptionBudget chat-new",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_order(name: str, tmp_path: Path) -> None:
    before, after, expected = CASES[name]
    lines = [line.show() for line in only_service(difference(tmp_path, before, after)).order]
    hashed = [line if JOB not in line else f"{line.split(JOB)[0]}{JOB}*{line.split(JOB)[1][8:]}" for line in lines]
    assert hashed == expected


SCALED = "replicas: {min: 2, max: 4}}]\n  scaling: {strategy: {kpa: {target: 8 per replica}}}"
NOTES = {
    "a hand-over": (
        FILES,
        edited(FILES, ("replicas: 2}]", SCALED)),
        ["pool l4 is handed to a scaler in two commits: its 2 replicas stay in the manifest until `build --finish-handover`"],
    ),
    "a new scaled pool": (
        NONE,
        NONE | edited(FILES, ("replicas: 2}]", SCALED)),
        ["pool l4 starts with one pod, Kubernetes' default; its scaler takes the number from there"],
    ),
    "another way to roll": (
        FILES,
        edited(FILES, ("quota: 12", "quota: 2")),
        ["pool l4 rolls with maxSurge 0 and maxUnavailable 1 from now on: the quota leaves 0 nvidia-l4 GPUs; one more replica needs 1"],
    ),
    "the same way": (FILES, edited(FILES, ("8192", "4096")), []),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTES)
def test_notes(name: str, tmp_path: Path) -> None:
    before, after, expected = NOTES[name]
    assert [line.show() for line in only_service(difference(tmp_path, before, after)).notes] == expected
