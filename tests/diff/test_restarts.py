"""What restarts, by which line, in which steps - and what does not."""

from pathlib import Path

import pytest

from aibrix_compile.diff.difference import AdapterChange, Kind
from aibrix_compile.diff.restarts import minutes
from tests.diff import FILES, SERVICE, difference, edited, only_service

SCALING = "\n  scaling: {strategy: {kpa: {target: 8 per replica}}"
RANGE = edited(FILES, ("replicas: 2}]", f"replicas: {{min: 2, max: 4}}}}]{SCALING}}}"))
ADAPTERS = "\n  adapters: {items: [{name: a, uri: s3://b/a, rank: 8, replicas: all}]}"
GROUP = edited(
    FILES,
    ("quota: 64", "quota: 256"),
    ("nvidia-l4, replicas: 2", "nvidia-h100-80g, parallelism: {tensor: 2, pipeline: 8}, replicas: 3"),
    ("replicas: 3}]", "replicas: 3}]\n  rollout: {maxUnavailable: 2, maxSurge: 0}"),
)

RESTARTS = {
    # edits, what the restart is said to come from: path, before, after, line
    "an engine's flag": ([("8192}", "8192, args: {max-num-seqs: 64}}")], ("engine.args", "not set", "{max-num-seqs: 64}", 6)),
    "context": ([("8192", "4096")], ("engine.maxModelLen", "8192", "4096", 6)),
    "version": ([("0.32.0", "0.33.0")], ("engine.version", "0.32.0", "0.33.0", 6)),
    "environment": ([("8192}", "8192, env: {A: b}}")], ("engine.env", "not set", "{A: b}", 6)),
    "a label": ([("{name: chat}", "{name: chat, labels: {team: a}}")], ("metadata.labels", "not set", "{team: a}", 3)),
    "revision": ([("a09a35458c", "b09a35458c")], ("model.revision", "a09a35458c702b33eeacc393d103063234e8bc28", "b09a35458c702b33eeacc393d103063234e8bc28", 5)),
    "served name": ([("servedName: chat", "servedName: talk")], ("model.servedName", "chat", "talk", 5)),
    "parallelism": ([("replicas: 2", "parallelism: {tensor: 2}, replicas: 2")], ("pools[l4].parallelism", "not set", "{tensor: 2}", 7)),
    "memory": ([("replicas: 2", "resources: {memory: 20Gi}, replicas: 2")], ("pools[l4].resources", "not set", "{memory: 20Gi}", 7)),
    "spot": ([("replicas: 2", "spot: true, replicas: 2")], ("pools[l4].spot", "not set", "true", 7)),
    "the first adapter": ([("replicas: 2}]", f"replicas: 2}}]{ADAPTERS}")], ("adapters", "not set", "{items: [{name: a, uri: s3://b/a, rank: 8, replicas: all}]}", 8)),
    "the escape hatch": ([("replicas: 2", "template: {spec: {dnsPolicy: Default}}, replicas: 2")], ("pools[l4].template", "not set", "{spec: {dnsPolicy: Default}}", 7)),
}  # fmt: skip


@pytest.mark.parametrize("name", RESTARTS)
def test_a_restart_and_the_line_behind_it(name: str, tmp_path: Path) -> None:
    edits, (path, before, after, line) = RESTARTS[name]
    found = only_service(difference(tmp_path, FILES, edited(FILES, *edits)))
    assert [one.pool for one in found.restarts] == ["l4"]
    told = {(one.path, one.before, one.after, one.place) for one in found.changes if one.restarts == ("l4",)}
    assert (path, before, after, f"services/chat.yaml:{line}") in told


STAYS = {
    "replicas": (FILES, [("replicas: 2", "replicas: 3")]),
    "the scaler's bounds": (RANGE, [("min: 2", "min: 1")]),
    "the scaler's target": (RANGE, [("8 per replica", "9 per replica")]),
    "from Git to a scaler": (FILES, [("replicas: 2}]", f"replicas: {{min: 2, max: 4}}}}]{SCALING}}}")]),
    "an adapter": (
        edited(FILES, ("replicas: 2}]", f"replicas: 2}}]{ADAPTERS}")),
        [
            (
                "{name: a, uri: s3://b/a, rank: 8, replicas: all}",
                "{name: a, uri: s3://b/a, rank: 8, replicas: all}, {name: c, uri: s3://b/c, rank: 8, replicas: all}",
            )
        ],
    ),
    "monitoring": (FILES, [("replicas: 2}]", "replicas: 2}]\n  monitoring: {podMonitor: true}")]),
    "rollout": (FILES, [("replicas: 2}]", "replicas: 2}]\n  rollout: {maxUnavailable: 1, maxSurge: 0}")]),
    "the account": (FILES, [("replicas: 2", "replicas: 2, serviceAccount: {annotations: {a/b: c}}")]),
    "the price": (FILES, [("0.71 USD", "0.99 USD")]),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_restarts_nothing(name: str, tmp_path: Path) -> None:
    before, edits = STAYS[name]
    found = only_service(difference(tmp_path, before, edited(before, *edits)))
    assert found.restarts == () and all(one.restarts == () for one in found.changes)


def test_adapters_have_lines_of_their_own(tmp_path: Path) -> None:
    before, edits = STAYS["an adapter"]
    after = edited(
        before, *edits, ("uri: s3://b/a, rank: 8, replicas: all}", "uri: s3://b/a, rank: 16, replicas: {min: 2}}")
    )
    found = only_service(difference(tmp_path, before, after))
    assert found.changes == () and found.adapters.added == ("c",) and found.adapters.removed == ()
    assert found.adapters.changed == (AdapterChange("a", "rank 8 -> 16, replicas all -> at least 2"),)


def test_a_restart_that_no_line_of_the_service_explains(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    lock = {"aibrix.lock": f"images: {{docker.io/vllm/vllm-openai:v0.32.0: {digest}}}\n"}
    found = only_service(difference(tmp_path, FILES, FILES | lock))
    (restart,), image = found.restarts, "docker.io/vllm/vllm-openai:v0.32.0"
    (field,) = restart.fields
    assert (field.path, field.before, field.after) == ("image", image, f"{image}@{digest}")
    assert field.because.endswith("digest from aibrix.lock:1") and found.changes == ()


def test_a_change_of_the_lock_hides_behind_no_change_of_the_service(tmp_path: Path) -> None:
    lock = {"aibrix.lock": "images: {docker.io/vllm/vllm-openai:v0.32.0: sha256:" + "a" * 64 + "}\n"}
    found = only_service(difference(tmp_path, FILES, edited(FILES, ("8192", "4096")) | lock))
    assert [one.path for one in found.restarts[0].fields] == ["image"]
    assert [one.path for one in found.changes] == ["engine.maxModelLen"]


def test_only_the_pool_that_a_line_is_about(tmp_path: Path) -> None:
    two = edited(FILES, ("replicas: 2}]", "replicas: 2}, {name: more, accelerator: nvidia-l4, replicas: 1}]"))
    found = only_service(difference(tmp_path, two, edited(two, ("name: more,", "name: more, priorityClass: high,"))))
    assert [one.pool for one in found.restarts] == ["more"]
    assert [(one.path, one.restarts) for one in found.changes] == [("pools[more].priorityClass", ("more",))]


ROLLS = {
    # rollout, replicas -> surge, unavailable, replicas that stay, waves
    "{maxUnavailable: 0, maxSurge: 1}": (4, 1, 0, 4, 4),
    "{maxUnavailable: 1, maxSurge: 0}": (4, 0, 1, 3, 4),
    "{maxUnavailable: 25%, maxSurge: 0}": (4, 0, 1, 3, 4),
    "{maxUnavailable: 0, maxSurge: 30%}": (5, 2, 0, 5, 3),
    "{maxUnavailable: 10%, maxSurge: 0}": (5, 0, 1, 4, 5),
    "{maxUnavailable: 100%, maxSurge: 0}": (3, 0, 3, 0, 1),
    "{maxUnavailable: 1, maxSurge: 1}": (4, 1, 1, 3, 2),
}


@pytest.mark.parametrize("rollout", ROLLS)
def test_waves(rollout: str, tmp_path: Path) -> None:
    replicas, surge, unavailable, left, waves = ROLLS[rollout]
    files = edited(FILES, ("replicas: 2}]", f"replicas: {replicas}}}]\n  rollout: {rollout}"))
    (found,) = only_service(difference(tmp_path, files, edited(files, ("8192", "4096")))).restarts
    seconds = waves * 400 + 315  # 15.2 GB at 100 MB/s and 240 s to warm up; 15 s and the longest answer to drain
    assert (found.surge, found.unavailable, found.left, found.seconds) == (surge, unavailable, left, (seconds, seconds))


def test_a_scaled_pool_takes_between_its_bounds(tmp_path: Path) -> None:
    found = only_service(difference(tmp_path, RANGE, edited(RANGE, ("8192", "4096")))).restarts[0]
    assert found.seconds == (2 * 400 + 315, 4 * 400 + 315)


def test_a_new_image_has_the_time_that_the_plan_gives_it(tmp_path: Path) -> None:
    (found,) = only_service(difference(tmp_path, FILES, edited(FILES, ("0.32.0", "0.33.0")))).restarts
    assert found.seconds == (2 * 1020 + 315, 2 * 1020 + 315)  # 400 s to start and 600 s to pull, in whole minutes


def test_groups_restart_as_a_whole_and_their_size_is_part_of_them(tmp_path: Path) -> None:
    found = only_service(difference(tmp_path / "one", GROUP, edited(GROUP, ("8192", "4096"))))
    assert [(one.nodes, one.unavailable, one.left) for one in found.restarts] == [(2, 2, 1)]
    larger = edited(GROUP, ("pipeline: 8", "pipeline: 12"))
    found = only_service(difference(tmp_path / "two", GROUP, larger))
    assert [one.nodes for one in found.restarts] == [3] and found.pools == ()
    assert {one.path: one.restarts for one in found.changes} == {"pools[l4].parallelism.pipeline": ("l4",)}


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (
            [("name: l4,", "name: new,")],
            [("new", Kind.NEW, "Deployment chat-new"), ("l4", Kind.GONE, "Deployment chat-l4")],
        ),
        ([("namespace: llm", "namespace: other")], [("l4", Kind.CHANGED, "Deployment chat-l4")]),
        (
            [("nvidia-l4, replicas: 2", "nvidia-h100-80g, parallelism: {tensor: 2, pipeline: 8}, replicas: 2")],
            [("l4", Kind.CHANGED, "LeaderWorkerSet chat-l4")],
        ),
    ],
    ids=["renamed", "another namespace", "another kind"],
)
def test_another_workload_is_no_restart(
    edits: list[tuple[str, str]], expected: list[tuple[str, Kind, str]], tmp_path: Path
) -> None:
    found = only_service(difference(tmp_path, FILES, edited(FILES, *edits)))
    assert [(one.pool, one.kind, one.workload) for one in found.pools] == expected and found.restarts == ()


def test_a_moved_file_changes_annotations_and_no_service(tmp_path: Path) -> None:
    moved = {"aibrix.yaml": FILES["aibrix.yaml"], "services/talk.yaml": SERVICE}
    found = difference(tmp_path, FILES, moved)
    assert found.services == () and len(found.objects.noted) == 8 and found.objects.changed == () and found


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(60, 60, "~1 min"), (61, 61, "~2 min"), (61, 600, "~2 to 10 min"), (0, 600, "up to ~10 min"), (0, 0, "~0 min")],
)
def test_minutes(low: int, high: int, text: str) -> None:
    assert minutes(low, high) == text
