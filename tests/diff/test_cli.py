"""`diff` as its users meet it: revisions and folders, exit codes, and what wrong calls are told."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.cli import EXAMPLES, MINIMAL, run, write
from tests.diff import FILES, edited, invoke
from tests.diff.repositories import committed, git
from tests.golden.trees import NAMES

CONTEXT = ("maxModelLen: 8192", "maxModelLen: 4096")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit; in the working tree, a smaller context that is not committed."""
    committed(write(tmp_path, FILES))
    return write(tmp_path, edited(FILES, CONTEXT))


@pytest.mark.parametrize("name", NAMES)
def test_a_project_does_not_differ_from_itself(name: str, tmp_path: Path) -> None:
    for copy in ("a", "b"):
        shutil.copytree(EXAMPLES / name, tmp_path / copy, ignore=shutil.ignore_patterns("expected"))
    done = invoke("diff", "a", "b", "--exit-code", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing changes\n", "")


def test_a_revision_and_the_working_tree(repository: Path) -> None:
    done = invoke("diff", "HEAD", cwd=repository)
    assert done.returncode == 0 and done.stderr == ""
    first = "chat changes in prod: restarts (rolling, ~19 min), same GPUs and price; 1 risk"
    assert done.stdout.splitlines()[0] == first
    assert invoke("diff", "main", cwd=repository / "services").stdout == done.stdout
    assert invoke("diff", "HEAD", "--exit-code", cwd=repository).returncode == 1


def test_two_revisions(repository: Path) -> None:
    committed(repository)
    write(repository, {"services/chat.yaml": "not even YAML: ["})
    done = invoke("diff", "HEAD~1", "HEAD", "--format", "json", cwd=repository)
    data = json.loads(done.stdout)
    assert data["differs"] is True and data["failed"] == [] and data["head"].startswith("HEAD (")
    assert [one["path"] for one in data["services"][0]["changes"]] == ["engine.maxModelLen"]
    assert json.loads(invoke("diff", "HEAD", "HEAD", "--format", "json", cwd=repository).stdout)["differs"] is False
    back = json.loads(invoke("diff", "HEAD", "HEAD~1", "--format", "json", cwd=repository).stdout)
    assert back["services"][0]["changes"][0]["after"] == "8192"


def test_the_working_tree_is_not_touched(repository: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if ".git" not in path.parts}
    index = (repository / ".git/index").read_bytes()
    invoke("diff", "HEAD", cwd=repository)
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*") if ".git" not in path.parts} == before
    assert (repository / ".git/index").read_bytes() == index


def test_nothing_is_left_in_the_folder_for_temporary_files(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tmp")
    assert run("diff", "HEAD", cwd=repository, TMPDIR=str(folder)).returncode == 0
    assert list(folder.iterdir()) == []


def test_folders_and_files(tmp_path: Path) -> None:
    write(tmp_path / "a", FILES)
    write(tmp_path / "b", edited(FILES, CONTEXT))
    first = "chat changes in prod: restarts (rolling, ~19 min), same GPUs and price; 1 risk"
    assert invoke("diff", "a", "b", cwd=tmp_path).stdout.startswith(first)
    assert invoke("diff", "../a", cwd=tmp_path / "b").stdout.startswith(first)
    write(tmp_path, {"old.yaml": MINIMAL, "new.yaml": MINIMAL.replace("replicas: 2", "replicas: 3")})
    done = invoke("diff", "old.yaml", "new.yaml", cwd=tmp_path)
    assert done.stdout.startswith("chat changes: no restart, +1 GPU, +584 USD/month; ")


def test_a_project_that_only_one_side_has(repository: Path) -> None:
    git(repository, "checkout", "-q", "--orphan", "empty")
    git(repository, "rm", "-rfq", "--cached", ".")
    git(repository, "commit", "--allow-empty", "-qm", "nothing")
    done = invoke("diff", "HEAD", cwd=repository)
    assert done.stdout.startswith("chat is new in prod: +2 GPUs, +1,037 USD/month; no risk seen\n"), done.stderr
    done = invoke("diff", "main", "HEAD", cwd=repository)
    assert done.stdout.startswith("chat is removed in prod: -2 GPUs, -1,037 USD/month; 1 risk\n"), done.stderr
    done = invoke("diff", "HEAD", "HEAD", cwd=repository)
    assert done.returncode == 2 and "there is no ModelService in HEAD" in done.stderr


TWO = edited(
    FILES,
    ("    - name: prod", "    - {name: dev, namespace: dev, overlays: [dev.yaml]}\n    - name: prod"),
) | {
    "dev.yaml": "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec: {pools: [{name: l4, replicas: 1}]}\n"
}


def test_one_environment(tmp_path: Path) -> None:
    write(tmp_path / "a", TWO)
    write(tmp_path / "b", edited(TWO, ("replicas: 1", "replicas: 3"), ("0.71 USD", "0.72 USD")))
    both = invoke("diff", "a", "b", cwd=tmp_path).stdout
    assert both.startswith("chat changes in dev, prod: no restart, +2 GPUs") and "0.71 USD -> 0.72 USD" in both
    dev = invoke("diff", "a", "b", "-e", "dev", cwd=tmp_path).stdout
    assert dev.startswith("chat changes in dev: no restart, +2 GPUs") and "prod" not in dev


def test_an_environment_that_only_one_side_has(tmp_path: Path) -> None:
    write(tmp_path / "a", FILES)
    write(tmp_path / "b", TWO)
    done = invoke("diff", "a", "b", "-e", "dev", cwd=tmp_path)
    assert done.stdout.startswith("chat is new in dev: +1 GPU, +584 USD/month; no risk seen\n"), done.stderr
    done = invoke("diff", "a", "b", "-e", "qa", cwd=tmp_path)
    assert done.returncode == 2 and "there is no environment qa; environments: prod, dev" in done.stderr


def test_a_base_that_does_not_compile_says_whose_mistake_it_is(repository: Path) -> None:
    write(repository, edited(FILES, ("nvidia-l4, replicas", "nvidia-l44, replicas")))
    broken = committed(repository)
    write(repository, FILES)
    done = invoke("diff", "HEAD", cwd=repository)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(
        f"HEAD ({broken[:12]}) does not compile, so there is nothing to compare:\n\nerror[AC206]"
    )
    assert "--> services/chat.yaml:7:" in done.stderr and "aibrix-diff-" not in done.stderr
    comment = invoke("diff", "HEAD", "--format", "markdown", "--id", "eu", cwd=repository)
    assert comment.returncode == 1 and comment.stdout == (
        f"<!-- aibrix-compile:diff:eu -->\n**`HEAD ({broken[:12]})` does not compile: 1 error**\n\n"
        '- AC206 `services/chat.yaml:7`: `there is no accelerator "nvidia-l44"`\n'
    )
    data = json.loads(invoke("diff", "HEAD", "--format", "json", cwd=repository).stdout)
    assert data["differs"] is None and [one["code"] for one in data["failed"][0]["findings"]] == ["AC206"]


def test_a_head_that_does_not_compile(repository: Path) -> None:
    write(repository, {"services/chat.yaml": "kind: ModelService\n"})
    done = invoke("diff", "HEAD", cwd=repository / "services")
    assert done.returncode == 1 and done.stderr.startswith("the working tree does not compile")
    assert "--> chat.yaml:1:" in done.stderr


def test_a_name_that_is_a_branch_and_a_folder(repository: Path) -> None:
    write(repository / "main", FILES)
    done = invoke("diff", "main", cwd=repository)
    assert done.stderr == "main is a revision and a file; the revision is meant, ./main would be the file\n"
    assert done.stdout.startswith("chat changes in prod")
    write(repository / "main", edited(FILES, CONTEXT))
    assert invoke("diff", "./main", cwd=repository).stdout == "nothing changes\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "nope is neither a revision of this repository nor a file or folder"),
        (["main..HEAD"], "main..HEAD is a range; write two arguments: aibrix-compile diff main HEAD"),
        ([""], "a revision or folder is empty; is a variable of your CI not set?"),
        (["./nope"], "./nope: no such file or folder"),
        (["."], ". is part of the working tree itself; compare with a revision or another folder"),
        (["services/chat.yaml"], "services/chat.yaml is part of the working tree itself"),
        (["HEAD", "-e", "qa"], "there is no environment qa; environments: prod"),
        (["HEAD", "--id", "a--b"], "--id 'a--b' is no name"),
        (["HEAD", "notes"], "no ModelService in notes"),
        (["--", "--upload-pack=touch x"], "--upload-pack=touch x is neither a revision"),
        ([], "the following arguments are required: BASE"),
    ],
)
def test_wrong_calls(repository: Path, arguments: list[str], words: str) -> None:
    shutil.rmtree(repository.parent / "elsewhere", ignore_errors=True)
    write(repository / "notes", {"readme.txt": "x"})
    if arguments[1:] == ["notes"]:
        arguments = ["HEAD", str(write(repository.parent / "elsewhere", {"notes/x.txt": ""}) / "notes")]
        words = "no ModelService in "
    done = invoke("diff", *arguments, cwd=repository)
    assert (done.returncode, done.stdout) == (2, "") and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_no_repository_and_no_git(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    done = run("diff", "main", cwd=tmp_path)
    assert done.returncode == 2 and "this folder is in no git repository" in done.stderr
    write(tmp_path / "other", FILES)
    done = run("diff", "main", cwd=tmp_path, PATH="/nowhere")
    assert done.returncode == 2 and "git is not installed; without it, give two folders" in done.stderr
    done = run("diff", "other", cwd=tmp_path, PATH="/nowhere")
    assert (done.returncode, done.stdout) == (0, "nothing changes\n"), done.stderr


def test_a_repository_of_somebody_else(repository: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a repository away")
    for path in (repository, repository / ".git"):
        os.chown(path, 12345, 12345)
    done = run("diff", "main", cwd=repository, HOME=str(repository), GIT_CONFIG_GLOBAL="/dev/null")
    assert done.returncode == 2 and "dubious ownership" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "environment", [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kolkata"}]
)
def test_same_bytes_everywhere(environment: dict[str, str], tmp_path: Path) -> None:
    for copy in ("a", "b"):
        shutil.copytree(EXAMPLES / "07-company", tmp_path / copy, ignore=shutil.ignore_patterns("expected"))
    (tmp_path / "b/services/notes.yaml").unlink()
    lock = tmp_path / "b/aibrix.lock"
    lock.write_text(lock.read_text().replace("5f8c2a0d", "6f8c2a0d"))
    found = [
        run("diff", "a", "b", "--format", form, cwd=tmp_path, **more).stdout
        for form in ("markdown", "json")
        for more in ({}, environment)
    ]
    assert found[0] == found[1] and found[2] == found[3]


def test_expected_prices_have_their_place(repository: Path) -> None:
    write(
        repository,
        edited(
            FILES,
            ("replicas: 2}]", "replicas: {min: 2, max: 4}}]\n  scaling: {strategy: {kpa: {target: 8 per replica}}}"),
        ),
    )
    assert "1,037 USD -> 1,037 / - / 2,073 USD" in invoke("diff", "HEAD", cwd=repository).stdout
