"""Every example compiles to the tree that is committed beside it: on any machine, from any folder, with any hash seed."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from kubernetes_validate import utils as kubernetes_schemas

from aibrix_compile import ownership
from tests.golden.trees import EXAMPLES, NAMES, build, tree

FOREIGN = {"Application", "LeaderWorkerSet", "AdapterSet", "ScalingPolicy", "PodMonitor", "PrometheusRule"}
SCHEMAS = ("1.31", "1.34", "1.37")


@pytest.mark.parametrize("name", NAMES)
def test_expected_tree(name: str, tmp_path: Path) -> None:
    done = build(EXAMPLES / name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path) == tree(EXAMPLES / name / "expected")


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kolkata"},
        {"LC_ALL": "C", "NO_COLOR": "1"},
    ],
)
def test_same_bytes_everywhere(environment: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "with space"
    shutil.copytree(EXAMPLES / "02-environments", copy, ignore=shutil.ignore_patterns("expected"))
    done = build(copy, tmp_path / "out", env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == tree(EXAMPLES / "02-environments" / "expected")


def test_a_service_alone_does_not_depend_on_the_current_folder(tmp_path: Path) -> None:
    for place, paths in (("a", ["chat.yaml"]), ("b/c", ["../../a/chat.yaml"])):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(EXAMPLES / "01-minimal" / "chat.yaml", tmp_path / "a")
        done = build(tmp_path / place, tmp_path / "out" / place[:1], *paths)
        assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out" / "a") == tree(EXAMPLES / "01-minimal" / "expected")


def test_one_more_adapter_changes_one_file_of_each_environment_and_two_of_its_gateway(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "07-company", tmp_path / "p", ignore=shutil.ignore_patterns("expected"))
    assert build(tmp_path / "p", tmp_path / "out").returncode == 0
    before = tree(tmp_path / "out")
    with (tmp_path / "p/adapters/travel.yaml").open("a") as file:
        file.write("  - {name: travel-new, uri: s3://adapters/travel/new, rank: 8}\n")
    done = build(tmp_path / "p", tmp_path / "out")
    assert "9 written" in done.stderr, done.stderr
    after = tree(tmp_path / "out")
    changed = [name for name in after if before[name] != after[name]]
    assert [name.split("/")[0] for name in changed] == ["dev"] * 3 + ["prod"] * 3 + ["staging"] * 3
    for name in changed:
        assert 0 < len(after[name].splitlines()) - len(before[name].splitlines()) <= 5


def _objects() -> list[tuple[str, dict]]:  # type: ignore[type-arg]
    return [
        (path.relative_to(EXAMPLES).as_posix(), yaml.safe_load(path.read_text("utf-8")))
        for name in NAMES
        for path in sorted((EXAMPLES / name / "expected").rglob("*.yaml"))
    ]


@pytest.mark.parametrize("version", SCHEMAS)
def test_objects_fit_the_schemas_of_kubernetes(version: str) -> None:
    for path, value in _objects():
        if value["kind"] not in FOREIGN:
            kubernetes_schemas.validate(value, version, strict=True)
        assert path


def test_no_object_contains_a_field_that_a_controller_owns() -> None:
    def tree_of(path: str) -> str:
        return "/".join(path.split("/")[:3])  # example, expected, environment

    scaled = {
        (tree_of(path), target["kind"], target["name"])
        for path, value in _objects()
        for target in (
            *value.get("spec", {}).get("ignoreDifferences", ()),
            *(value["spec"].get("targets", ()) if value["kind"] == "ScalingPolicy" else ()),
        )
    }
    assert scaled
    for path, value in _objects():
        key = (tree_of(path), value["kind"], value["metadata"]["name"])
        assert ownership.trespasses(value, scaled=key in scaled) == [], path


def test_pods_are_least_privileged() -> None:
    for path, value in _objects():
        if value["kind"] != "Deployment":
            continue
        pod = value["spec"]["template"]["spec"]
        reads_pods = value["metadata"]["labels"]["app.kubernetes.io/component"] == "picker"
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is reads_pods, path
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], path
            assert security["capabilities"]["drop"] == ["ALL"], path


def test_pods_have_time_to_finish_the_longest_answer() -> None:
    for path, value in _objects():
        component = value["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if value["kind"] == "Deployment" and component != "picker":
            pod = value["spec"]["template"]["spec"]
            assert pod["terminationGracePeriodSeconds"] > 300, path
            *_, propagation, limit = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            whole = int(limit) + (int(propagation) if component == "gateway" else 0)
            assert int(propagation) + 300 <= whole < pod["terminationGracePeriodSeconds"], path
