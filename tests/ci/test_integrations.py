"""What other tools start: the pre-commit hooks through pre-commit itself, the GitHub Action's own script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli import MINIMAL, project, write

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    service = MINIMAL.replace("8B-Instruct}", "8B-Instruct, revision: 0e9e39f249a16976918f6564b8830bc894c89659}")
    write(tmp_path, {"aibrix.yaml": project(), "services/chat.yaml": service})
    _git(tmp_path, "init")
    return tmp_path


def _hook(repository: Path, name: str, *extra: str) -> subprocess.CompletedProcess[str]:
    """Run one of our hooks as pre-commit runs it; `system` instead of an environment of its own, which needs a network."""
    (hook,) = [one for one in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text()) if one["id"] == name]
    local = {"repo": "local", "hooks": [{**hook, "language": "system", "args": list(extra)}]}
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [local]}))
    _git(repository, "add", "-A")
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files"]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, env=ENVIRONMENT)


def test_the_check_hook(repository: Path) -> None:
    assert _hook(repository, "aibrix-check").returncode == 0
    service = repository / "services/chat.yaml"
    service.write_text(service.read_text().replace("nvidia-l4", "nvidia-l44"))
    done = _hook(repository, "aibrix-check")
    assert done.returncode == 1 and "AC206" in done.stdout


def test_the_fix_hook_corrects_and_stops_the_commit(repository: Path) -> None:
    service = repository / "services/chat.yaml"
    service.write_text(service.read_text().replace("maxModelLen: 16384", "maxModelLen: 16_384"))
    done = _hook(repository, "aibrix-fix")
    assert done.returncode == 1 and "files were modified" in done.stdout
    assert "maxModelLen: 16384" in service.read_text()
    assert _hook(repository, "aibrix-fix").returncode == 0


def test_the_build_hook_stops_a_commit_with_stale_manifests(repository: Path) -> None:
    _hook(repository, "aibrix-build", "-o", "deploy")  # untracked files do not stop a commit
    assert (repository / "deploy/.aibrix-files").exists()
    assert _hook(repository, "aibrix-build", "-o", "deploy").returncode == 0
    service = repository / "services/chat.yaml"
    service.write_text(service.read_text().replace("replicas: 2", "replicas: 3"))
    assert _hook(repository, "aibrix-build", "-o", "deploy").returncode == 1
    assert _hook(repository, "aibrix-build", "-o", "deploy").returncode == 0


def _step(begins: str) -> str:
    """The script of the action's step that has such a line."""
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    (found,) = [one["run"] for one in steps if begins in one.get("run", "")]
    return str(found)


# a mock of GitHub's own program, which needs its service: keeps one comment and writes down what it was asked
GH = """#!/bin/sh
echo "$@" >> "$FAKE/asked"
case "$*" in
  *--paginate*) [ -f "$FAKE/comment" ] && head -n 1 "$FAKE/comment" | grep -qF "$MARK" && echo 77; exit 0;;
  *PATCH*issues/comments/77*|*POST*issues/5/comments*) for word in "$@"; do case "$word" in body=@*) cp "${word#body=@}" "$FAKE/comment";; esac; done;;
  *) exit 9;;
esac
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="the action's script is for bash")
def test_the_actions_comment_is_written_once_and_then_updated(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fake = tmp_path_factory.mktemp("fake")
    write(fake, {"bin/gh": GH})
    (fake / "bin/gh").chmod(0o755)
    _git(repository, "add", "-A")
    _git(repository, "commit", "-m", "x")
    service = repository / "services/chat.yaml"
    service.write_text(service.read_text().replace("replicas: 2", "replicas: 3"))

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        report = {"REPORT": str(fake / "report"), "GITHUB_STEP_SUMMARY": str(fake / "summary")}
        asked = {"BASE": "HEAD", "TRACE": "", "GATE": "false", "COMMENT": "true", "PULL_REQUEST": "5", **more}
        place = {"GITHUB_REPOSITORY": "acme/llm", "FAKE": str(fake), "PATH": f"{fake}/bin:{ENVIRONMENT['PATH']}"}
        environment = {**ENVIRONMENT, **report, **asked, **place}
        command = ["bash", "-e", "-o", "pipefail", "-c", _step("aibrix-compile report")]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True, env=environment)

    done = run()
    assert done.returncode == 0, done.stderr
    assert "`chat` changes in `prod`" in (fake / "comment").read_text()
    assert "POST" in (fake / "asked").read_text() and "PATCH" not in (fake / "asked").read_text()
    service.write_text(service.read_text().replace("replicas: 3", "replicas: 4"))
    assert run().returncode == 0
    assert (
        "2 -> 4" in (fake / "comment").read_text()
        and "PATCH repos/acme/llm/issues/comments/77" in (fake / "asked").read_text()
    )
    service.write_text(service.read_text().replace("nvidia-l4", "nvidia-l44"))
    assert run().returncode == 1, "a mistake fails the step after it was said in the comment"
    assert "AC206" in (fake / "comment").read_text()
    assert run(COMMENT="false", PULL_REQUEST="").returncode == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="the action's script is for bash")
def test_the_action(repository: Path) -> None:
    script = _step("aibrix-compile check")

    def run(output: str) -> subprocess.CompletedProcess[str]:
        environment = {**ENVIRONMENT, "PATHS": "", "OUTPUT": output}
        return subprocess.run(
            ["bash", "-e", "-c", script], cwd=repository, capture_output=True, text=True, env=environment
        )

    assert run("").returncode == 0
    assert run("deploy").returncode == 1
    subprocess.run([BIN / "aibrix-compile", "build", "-o", "deploy"], cwd=repository, check=True, capture_output=True)
    assert run("deploy").returncode == 0
    service = repository / "services/chat.yaml"
    service.write_text(service.read_text().replace("nvidia-l4", "nvidia-l44"))
    done = run("deploy")
    assert done.returncode == 1 and done.stdout.startswith("::error file=services/chat.yaml,line=7,")
