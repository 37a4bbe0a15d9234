"""`platform`: what it writes, whom it lets do what, and that it and `build` leave each other's files alone."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import utils as kubernetes_schemas

from aibrix_compile import crds
from aibrix_compile.backends import platform
from aibrix_compile.closure import unresolved
from aibrix_compile.ownership import SCALED
from aibrix_compile.plan import ArgoTarget
from tests.cli import EXAMPLES, MINIMAL, project, run, write
from tests.golden.trees import tree

HERE = ArgoTarget("https://git.example.com/d", "main", "deploy/prod", "llm", "argocd", platform.IN_CLUSTER, "")
PLAN = platform.PlatformPlan("prod", "llm", "llm-gateway", "1.34", "argocd", HERE)
THREE = project(
    environments="""
    - {name: staging, namespace: s, argocd: {repoURL: "https://git.example.com/d", path: deploy/staging}}
    - {name: prod, namespace: p, argocd: {repoURL: "https://git.example.com/d", path: deploy/prod}}
    - {name: far, namespace: p, gateway: {namespace: g}, argocd: {repoURL: "https://git.example.com/d", path: deploy/far, destination: {name: far-eu}}}"""
)


def _objects(plan: platform.PlatformPlan = PLAN) -> dict[tuple[str, str, str], dict[str, Any]]:
    found = [one.object for one in platform.emit(plan)]
    keys = [(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in found]
    assert len(keys) == len(set(keys))
    return dict(zip(keys, found, strict=True))


def _rules(objects: dict[tuple[str, str, str], dict[str, Any]], account: str) -> dict[tuple[str, str, str], set[str]]:
    """(namespace, group, resource) -> verbs, through the bindings."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for (kind, namespace, _), binding in objects.items():
        if kind == "RoleBinding" and account in [one["name"] for one in binding["subjects"]]:
            for rule in objects["Role", namespace, binding["roleRef"]["name"]]["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        found.setdefault((namespace, group, resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
def test_objects_fit_the_schemas_of_kubernetes(version: str) -> None:
    for (kind, _, _), value in _objects().items():
        if kind != "Application":
            kubernetes_schemas.validate(value, version, strict=True)


def test_everything_resolves() -> None:
    artifacts = [one for one in platform.emit(PLAN) if one.object["kind"] != "Application"]
    assert unresolved(artifacts, ()) == []
    objects = _objects()
    for value in objects.values():
        for subject in value.get("subjects", ()):
            assert (subject["kind"], subject["namespace"], subject["name"]) in objects
    folders = {f"deploy/prod/platform/{one.path}".rpartition("/")[0] for one in platform.emit(PLAN)}
    applications = [value for (kind, _, _), value in objects.items() if kind == "Application"]
    assert len(applications) == 2 and {one["spec"]["source"]["path"] for one in applications} <= folders


def test_no_wildcard_and_nothing_cluster_wide() -> None:
    for (kind, _, name), value in _objects().items():
        assert not kind.startswith("ClusterRole"), name
        for rule in value.get("rules", ()):
            assert not {"*"} & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}, name
            assert not {"secrets", "deployments", "leaderworkersets", "pods/exec"} & set(rule["resources"]), name
            assert not {"delete", "deletecollection", "escalate", "bind", "impersonate"} & set(rule["verbs"]), name


def test_the_scaler_writes_what_it_owns_and_its_status() -> None:
    rules = _rules(_objects(), "aibrix-scaler")
    writing = {key[1:]: verbs - {"get", "list", "watch"} for key, verbs in rules.items()}
    writing = {key: verbs for key, verbs in writing.items() if verbs}
    bookkeeping = {("", "events"), ("events.k8s.io", "events"), ("coordination.k8s.io", "leases")}
    assert {key: verbs for key, verbs in writing.items() if key not in bookkeeping} == {
        **{(one.group, f"{one.kind.lower()}s/{one.subresource}"): {"patch"} for one in SCALED},
        (crds.GROUP, "scalingpolicies/status"): {"patch"},
    }
    assert rules["llm-gateway", "discovery.k8s.io", "endpointslices"] == {"get", "list", "watch"}


def test_the_adapters_controller_writes_only_its_status() -> None:
    rules = _rules(_objects(), "aibrix-adapters")
    assert rules["llm", crds.GROUP, "adaptersets/status"] == {"get", "patch"}
    assert rules["llm", crds.GROUP, "adaptersets"] == rules["llm", "", "pods"] == {"get", "list", "watch"}
    assert not any("scale" in resource for _, _, resource in rules)


def test_the_picker_reads() -> None:
    objects = _objects()
    rules = _rules(objects, "aibrix-picker")
    assert set().union(*rules.values()) == {"get", "list", "watch"}
    assert {namespace for namespace, _, _ in rules} == {"llm", "llm-gateway"}
    assert ("ServiceAccount", "llm-gateway", "aibrix-picker") in objects


def test_without_a_gateway_there_is_no_picker() -> None:
    plan = platform.PlatformPlan("prod", "llm", "", "1.34", "argocd", None)
    assert not any("picker" in name for _, _, name in _objects(plan))


def test_one_namespace_for_both() -> None:
    plan = platform.PlatformPlan("prod", "llm", "llm", "1.34", "argocd", None)
    assert ("Role", "llm", "aibrix-picker") in _objects(plan)


def test_namespaces_are_kept_and_restricted() -> None:
    for name in ("llm", "llm-gateway"):
        metadata = _objects()["Namespace", "", name]["metadata"]
        assert metadata["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        assert metadata["labels"]["pod-security.kubernetes.io/enforce-version"] == "v1.34"
        assert metadata["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"


@pytest.mark.parametrize("name", ["default", "kube-system"])
def test_namespaces_that_every_cluster_has_are_left_alone(name: str) -> None:
    assert not [
        key for key in _objects(platform.PlatformPlan("e", name, "", "1.34", "argocd", None)) if key[0] == "Namespace"
    ]


def test_emitted_pods_meet_the_level_that_namespaces_enforce() -> None:
    """Pod Security `restricted`: what it demands of a pod, asked of every example's."""
    pods = [
        value["spec"]["template"]["spec"]
        for path in EXAMPLES.glob("*/expected/**/*.yaml")
        if (value := yaml.safe_load(path.read_text()))["kind"] == "Deployment"
    ]
    assert pods
    for pod in pods:
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for volume in pod["volumes"]:
            allowed = {
                "configMap",
                "csi",
                "downwardAPI",
                "emptyDir",
                "ephemeral",
                "persistentVolumeClaim",
                "projected",
                "secret",
            }
            assert volume.keys() - {"name"} <= allowed
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False and security["capabilities"] == {"drop": ["ALL"]}
            assert not security.get("privileged") and not any(
                port.get("hostPort") for port in container.get("ports", ())
            )


def test_definitions_survive_pruning() -> None:
    found = {one["metadata"]["name"]: one for one in platform.definitions()}
    for name, bare in crds.definitions().items():
        options = found[name]["metadata"].pop("annotations")["argocd.argoproj.io/sync-options"].split(",")
        assert {"Prune=false", "ServerSideApply=true"} <= set(options)
        assert found[name] == bare


def test_config_is_a_part_to_merge() -> None:
    part = _objects()["ConfigMap", "argocd", "argocd-cm"]
    assert part["data"] == crds.health_checks()
    assert part["metadata"]["labels"] == {"app.kubernetes.io/part-of": "argocd"}
    paths = {one.path for one in platform.emit(PLAN) if one.object["kind"] == "ConfigMap"}
    assert all(path.startswith("argocd/") for path in paths)  # a folder that no Application reads


def test_the_plugin() -> None:
    (text,) = _objects()["ConfigMap", "argocd", "aibrix-compile-plugin"]["data"].values()
    plugin = yaml.safe_load(text)
    assert (plugin["apiVersion"], plugin["kind"]) == ("argoproj.io/v1alpha1", "ConfigManagementPlugin")
    assert plugin["metadata"] == {"name": "aibrix-compile"}
    assert plugin["spec"]["generate"]["command"] == ["aibrix-compile", "argocd", "generate"]
    assert not plugin["spec"].keys() & {"discover", "version"}


def test_applications_leave_what_services_stand_on() -> None:
    for (kind, _, _), value in _objects().items():
        if kind == "Application":
            assert "finalizers" not in value["metadata"]
            assert "directory" not in value["spec"]["source"]  # Argo CD removes what is its default, again and again
            assert "allowEmpty" not in value["spec"]["syncPolicy"]["automated"]


# --- the command


@pytest.fixture
def three(tmp_path: Path) -> Path:
    write(tmp_path, {"aibrix.yaml": THREE, "services/chat.yaml": MINIMAL})
    done = run("platform", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_the_tree_of_a_project(three: Path) -> None:
    names = tree(three / "out")
    assert {name.split("/")[0] for name in names} == {"staging", "prod", "far"}
    assert all(name.split("/")[1] == "platform" for name in names)
    applications = [name.rpartition("/90-application-")[2] for name in names if "90-application" in name]
    assert sorted(applications) == [
        "aibrix-crds-far-eu.yaml",
        "aibrix-crds.yaml",
        "aibrix-crds.yaml",
        "far-platform.yaml",
        "prod-platform.yaml",
        "staging-platform.yaml",
    ]
    for environment in ("staging", "prod", "far"):
        listed = (three / "out" / environment / "platform/.aibrix-files").read_text().splitlines()
        assert sorted([*listed, ".aibrix-files"]) == sorted(tree(three / "out" / environment / "platform"))


def test_the_same_bytes_from_anywhere(three: Path) -> None:
    assert "0 written" in run("platform", "-o", "out", cwd=three).stderr
    done = run("platform", "../services", "-o", "../again", cwd=three / "out", PYTHONHASHSEED="7", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert tree(three / "again") == tree(three / "out")


def test_build_and_platform_share_a_folder(three: Path) -> None:
    (three / "aibrix.yaml").write_text(THREE.replace("gateway: {namespace: g}, ", ""))
    assert run("platform", "-o", "out", cwd=three).returncode == 0
    before = tree(three / "out")
    assert run("build", "-o", "out", cwd=three).returncode == 0
    built = tree(three / "out")
    assert before.items() <= built.items() and len(built) > len(before)
    assert run("build", "-o", "out", "-e", "prod", cwd=three).returncode == 0
    assert run("platform", "-o", "out", cwd=three).returncode == 0
    assert tree(three / "out") == built
    assert run("build", "-o", "out", "--check", cwd=three).returncode == 0
    assert run("platform", "-o", "out", "--check", cwd=three).returncode == 0


def test_one_environment(three: Path) -> None:
    done = run("platform", "-o", "one", "-e", "prod", cwd=three)
    assert done.returncode == 0 and [path.name for path in (three / "one").iterdir()] == ["prod"]
    done = run("platform", "-o", "one", "-e", "prd", cwd=three)
    assert done.returncode == 2 and "environments: staging, prod, far" in done.stderr


def test_what_is_no_longer_wanted_is_deleted_and_foreign_files_stay(three: Path) -> None:
    (three / "out/far/platform/mine.yaml").write_text("mine")
    (three / "aibrix.yaml").write_text(THREE.replace("gateway: {namespace: g}, ", ""))
    assert run("platform", "-o", "out", "--check", cwd=three).stdout.count("would be deleted") == 8
    assert run("platform", "-o", "out", cwd=three).returncode == 0
    names = {path.name for path in (three / "out/far/platform").iterdir()}
    assert "mine.yaml" in names and not any("picker" in name for name in names)


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    there = "out/default/platform/10-serviceaccount-aibrix-scaler.yaml"
    write(tmp_path, {there: "mine"})
    done = run("platform", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2 and "was not written by `platform`" in done.stderr
    assert tree(tmp_path) == {there: b"mine"}


def test_without_a_project(tmp_path: Path) -> None:
    done = run("platform", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = tree(tmp_path / "out")
    assert not any("application" in name or "namespace" in name for name in names)
    assert "default/platform/crds/02-customresourcedefinition-adaptersets.serving.aibrix.ai.yaml" in names


def test_a_broken_service_does_not_matter_and_a_broken_project_does(tmp_path: Path) -> None:
    write(tmp_path, {"aibrix.yaml": project(), "services/chat.yaml": MINIMAL.replace("nvidia-l4", "nvidia-l5")})
    assert run("platform", "-o", "out", cwd=tmp_path).returncode == 0
    write(tmp_path, {"services/chat.yaml": "a: [\n"})
    assert run("platform", "-o", "out", cwd=tmp_path).returncode == 0
    write(tmp_path, {"aibrix.yaml": project(environments="[{name: prod}]")})
    done = run("platform", "-o", "other", cwd=tmp_path)
    assert done.returncode == 1 and "AC102" in done.stderr and not (tmp_path / "other").exists()


def test_a_service_of_that_name(tmp_path: Path) -> None:
    write(tmp_path, {"aibrix.yaml": project(), "services/p.yaml": MINIMAL.replace("name: chat", "name: platform")})
    done = run("platform", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2 and "rename the service" in done.stderr


def test_a_file_in_the_way(tmp_path: Path) -> None:
    write(tmp_path, {"out": "a file"})
    done = run("platform", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
