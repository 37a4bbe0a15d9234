"""`build`: what it writes, what it leaves alone, and that an interruption is repaired."""

import json
import stat
from pathlib import Path

import pytest
import yaml

from tests.cli import EXAMPLES, MINIMAL, project, run, write
from tests.golden.trees import tree

TWO = project(environments="[{name: staging, namespace: s}, {name: prod, namespace: p}]")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A project with two environments and two services, built into `out`."""
    other = (
        MINIMAL.replace("name: chat", "name: other")
        .replace("engine:", "engine:")
        .replace("{uri:", "{servedName: o, uri:")
    )
    write(tmp_path, {"aibrix.yaml": TWO, "services/chat.yaml": MINIMAL, "services/other.yaml": other})
    assert run("build", "-o", "out", cwd=tmp_path).returncode == 0
    return tmp_path


def test_the_tree_of_a_project(two: Path) -> None:
    names = tree(two / "out").keys() - {".aibrix-files"}
    assert {name.rpartition("/")[0] for name in names} == {
        f"{e}/{s}" for e in ("prod", "staging") for s in ("chat", "other")
    }
    assert (two / "out/.aibrix-files").read_text().splitlines() == sorted(names)


def test_a_second_build_writes_nothing(two: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (two / "out").rglob("*")}
    done = run("build", "-o", "out", cwd=two)
    assert "0 written" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (two / "out").rglob("*")} == before


def test_one_environment_or_service_leaves_the_others(two: Path) -> None:
    before = tree(two / "out")
    (two / "services/chat.yaml").write_text(MINIMAL.replace("replicas: 2", "replicas: 3"))
    assert run("build", "-o", "out", "-e", "prod", cwd=two).returncode == 0
    after = tree(two / "out")
    assert {name for name in before if before[name] != after.get(name)} == {
        "prod/chat/40-deployment-chat-nvidia-l4.yaml"
    }
    (two / "services/other.yaml").write_text(
        (two / "services/other.yaml").read_text().replace("replicas: 2", "replicas: 4")
    )
    assert run("build", "services/chat.yaml", "-o", "out", cwd=two).returncode == 0
    last = tree(two / "out")
    assert {name for name in after if after[name] != last.get(name)} == {
        "staging/chat/40-deployment-chat-nvidia-l4.yaml"
    }


def test_what_is_no_longer_wanted_is_deleted_and_foreign_files_stay(two: Path) -> None:
    (two / "out/prod/chat/by-hand.yaml").write_text("mine")
    (two / "services/other.yaml").unlink()
    done = run("build", "-o", "out", cwd=two)
    assert done.returncode == 0, done.stderr
    assert not (two / "out/prod/other").exists()
    assert "prod/other/40-deployment-other-nvidia-l4.yaml is no longer wanted: deleted" in done.stderr
    assert (two / "out/prod/chat/by-hand.yaml").read_text() == "mine"


def test_a_build_that_would_delete_most_is_refused(two: Path) -> None:
    before = tree(two / "out")
    (two / "aibrix.yaml").write_text(project(environments="[{name: new, namespace: p}]"))
    done = run("build", "-o", "out", cwd=two)
    assert done.returncode == 2 and "--prune-most" in done.stderr
    assert tree(two / "out") == before
    assert run("build", "-o", "out", "--prune-most", cwd=two).returncode == 0
    assert {path.name for path in (two / "out").iterdir()} == {".aibrix-files", "new"}


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL, "out/default/chat/20-configmap-chat-engine.yaml": "mine"})
    done = run("build", "chat.yaml", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2 and "20-configmap-chat-engine.yaml exists" in done.stderr
    assert tree(tmp_path / "out") == {"default/chat/20-configmap-chat-engine.yaml": b"mine"}


def test_check_says_what_is_stale_and_writes_nothing(two: Path) -> None:
    assert run("build", "-o", "out", "--check", cwd=two).returncode == 0
    (two / "services/chat.yaml").write_text(MINIMAL.replace("replicas: 2", "replicas: 3"))
    before = tree(two / "out")
    done = run("build", "-o", "out", "--check", cwd=two)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{e}/chat/40-deployment-chat-nvidia-l4.yaml would change" for e in ("prod", "staging")
    ]
    assert tree(two / "out") == before


def test_dry_sha(two: Path) -> None:
    assert run("build", "-o", "out", "--dry-sha", "abc123", cwd=two).returncode == 0
    assert json.loads((two / "out/hydrator.metadata").read_text())["drySha"] == "abc123"
    assert run("build", "-o", "out", "--check", cwd=two).returncode == 0


@pytest.mark.parametrize("stop", [1, 3, 7, 12])
def test_an_interrupted_build_is_repaired_by_the_next(tmp_path: Path, stop: int) -> None:
    """Power is cut after the n-th rename: every file is whole, and the next build completes the set."""
    write(tmp_path, {"aibrix.yaml": TWO, "services/chat.yaml": MINIMAL})
    cut = (
        "import os, sys\nfrom aibrix_compile.cli.main import main\nreplace, count = os.replace, [0]\n"
        "def broken(a, b):\n    replace(a, b)\n    count[0] += 1\n"
        f"    if count[0] == {stop}: os._exit(9)\nos.replace = broken\nsys.exit(main(['build', '-o', 'out']))\n"
    )
    import subprocess
    import sys

    assert subprocess.run([sys.executable, "-c", cut], cwd=tmp_path).returncode == 9
    for name, content in tree(tmp_path / "out").items():
        if name.endswith(".yaml"):
            assert yaml.safe_load(content)["kind"]
    assert run("build", "-o", "out", cwd=tmp_path).returncode == 0
    assert run("build", "-o", "fresh", cwd=tmp_path).returncode == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_read_only_output(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL})
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = run("build", "chat.yaml", "-o", "out", cwd=tmp_path, ordinary=True)
    assert done.returncode == 2 and "permission denied" in done.stderr


def test_an_output_that_can_not_be_written(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL, "out": "a file"})
    assert run("build", "chat.yaml", "-o", "out", cwd=tmp_path).returncode == 2
    done = run("build", "chat.yaml", "-o", "/proc/self/out", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_nothing_is_written_when_something_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL.replace("nvidia-l4", "nvidia-l5")})
    done = run("build", "chat.yaml", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1 and "AC206" in done.stderr
    assert not (tmp_path / "out").exists()


def test_stdout_and_plan(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL})
    done = run("build", "chat.yaml", "--stdout", cwd=tmp_path)
    assert [one["kind"] for one in yaml.safe_load_all(done.stdout)] == [
        "ServiceAccount",
        "ConfigMap",
        "Service",
        "Service",
        "NetworkPolicy",
        "Deployment",
        "PodDisruptionBudget",
    ]
    (plan,) = json.loads(run("build", "chat.yaml", "--plan", "json", cwd=tmp_path).stdout)
    assert plan["services"][0]["pools"][0]["sizing"]["max_model_len"] == 16384


def test_one_argo_cd_application_for_each_service(tmp_path: Path) -> None:
    done = run("build", "--stdout", "-e", "prod", cwd=EXAMPLES / "02-environments")
    found = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "Application"]
    assert [one["spec"]["source"]["path"] for one in found] == ["deploy/prod/summaries", "deploy/prod/support-chat"]
    for one in found:
        assert one["spec"]["syncPolicy"]["automated"] == {"prune": True, "selfHeal": True}
        assert one["spec"]["syncPolicy"]["retry"]["refresh"] is True
        assert set(one["spec"]["syncPolicy"]["syncOptions"]) == {
            "ServerSideApply=true",
            "RespectIgnoreDifferences=true",
        }
        assert one["spec"]["destination"] == {"name": "prod-eu", "namespace": "assistants"}


def test_what_has_no_backend_yet_is_refused_by_build_and_accepted_by_check(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL + "  routing: {timeout: 60s}\n  slo: {ttft: {p99: 2s}}\n"})
    assert run("check", "chat.yaml", cwd=tmp_path).returncode == 0
    done = run("build", "chat.yaml", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1 and (done.stderr.count("AC501"), done.stderr.count("AC509")) == (1, 1)


def test_the_pods_of_a_service_that_is_not_changed_do_not_restart(tmp_path: Path) -> None:
    """Provenance is on object metadata only: a line more in the file changes no pod template."""
    write(tmp_path, {"a/chat.yaml": MINIMAL, "b/renamed.yaml": "# a comment\n\n" + MINIMAL})
    templates = [
        one["spec"]["template"]
        for folder in ("a", "b")
        for one in yaml.safe_load_all(run("build", folder, "--stdout", cwd=tmp_path).stdout)
        if one["kind"] == "Deployment"
    ]
    assert templates[0] == templates[1]
