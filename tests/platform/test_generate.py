"""`argocd generate`: all or nothing, never nothing without an error, and one environment."""

import json
import re
from pathlib import Path

import pytest
import yaml

from aibrix_compile import compiler
from aibrix_compile.cli.main import main
from tests.cli import EXAMPLES, MINIMAL, project, run, write

EXAMPLE = EXAMPLES / "02-environments"


def _parameters(**values: str) -> str:
    return json.dumps([{"name": name, "string": value} for name, value in values.items()])


def _namespaces(text: str) -> set[str]:
    return {one["metadata"]["namespace"] for one in yaml.safe_load_all(text)}


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["-e", "prod"], {}),
        ([], {"ARGOCD_ENV_ENVIRONMENT": "prod"}),
        ([], {"ARGOCD_APP_PARAMETERS": _parameters(environment="prod", other="x")}),
        (["-e", "prod"], {"ARGOCD_ENV_ENVIRONMENT": "prod", "ARGOCD_APP_PARAMETERS": _parameters(environment="prod")}),
        ([], {"ARGOCD_ENV_ENVIRONMENT": "prod", "ARGOCD_APP_PARAMETERS": "null"}),
        ([], {"ARGOCD_ENV_ENVIRONMENT": "prod", "ARGOCD_APP_PARAMETERS": "[]"}),
    ],
)
def test_the_environment(arguments: list[str], variables: dict[str, str]) -> None:
    done = run("argocd", "generate", *arguments, cwd=EXAMPLE, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and _namespaces(done.stdout) == {"assistants"}


def test_it_prints_what_build_writes_without_applications() -> None:
    done = run("argocd", "generate", "-e", "prod", cwd=EXAMPLE)
    built = [
        yaml.safe_load(path.read_text())
        for path in sorted((EXAMPLE / "expected/prod").rglob("*.yaml"))
        if "application" not in path.name
    ]
    assert list(yaml.safe_load_all(done.stdout)) == built
    assert done.stdout == run("argocd", "generate", "-e", "prod", cwd=EXAMPLE, PYTHONHASHSEED="3").stdout


def test_only_the_services_of_the_current_folder(tmp_path: Path) -> None:
    files = {
        f"services/{name}/s.yaml": MINIMAL.replace("name: chat", f"name: {name}").replace(
            "{uri", f"{{servedName: {name}, uri"
        )
        for name in ("a", "b")
    }
    write(tmp_path, {"aibrix.yaml": project().replace("services/*.yaml", "services/*/*.yaml"), **files})
    done = run("argocd", "generate", cwd=tmp_path / "services" / "a")
    assert done.returncode == 0, done.stderr
    labels = {one["metadata"]["labels"]["serving.aibrix.ai/service"] for one in yaml.safe_load_all(done.stdout)}
    assert labels == {"a"}


def test_without_a_project(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL})
    assert run("argocd", "generate", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "one of staging, prod"),
        ({"ARGOCD_ENV_ENVIRONMENT": "prd"}, "there is no environment prd"),
        (
            {"ARGOCD_ENV_ENVIRONMENT": "prod", "ARGOCD_APP_PARAMETERS": _parameters(environment="staging")},
            "the environment is not clear: parameter environment says staging, ARGOCD_ENV_ENVIRONMENT says prod",
        ),
        ({"ARGOCD_APP_PARAMETERS": "{"}, "ARGOCD_APP_PARAMETERS is not JSON"),
        ({"ARGOCD_APP_PARAMETERS": '[{"name": "environment", "array": ["prod"]}]'}, "is one string"),
    ],
)
def test_an_environment_that_is_not_clear(variables: dict[str, str], said: str) -> None:
    done = run("argocd", "generate", cwd=EXAMPLE, **variables)
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr.splitlines()[0]


def test_findings_come_first_and_nothing_is_printed(tmp_path: Path) -> None:
    bad = MINIMAL.replace("nvidia-l4", "nvidia-l5").replace("maxModelLen", "maxLen")
    write(tmp_path, {"aibrix.yaml": project(), "services/chat.yaml": bad})
    done = run("argocd", "generate", cwd=tmp_path / "services")
    assert done.returncode == 1 and done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert re.match(r"2 errors(, 1 warning)?; first AC101 at chat\.yaml:6:41: spec\.engine has no field", first)
    assert any(line.startswith("error[AC206]") for line in rest)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"notes.yaml": "a: b\n"},
        {"aibrix.yaml": project(), "services/chat.yaml": ""},
        {"aibrix.yaml": project().replace("[services/*.yaml]", "[]")},
    ],
)
def test_no_object_is_an_error(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    done = run("argocd", "generate", cwd=tmp_path)
    assert done.returncode != 0 and done.stdout == "" and done.stderr


def test_a_compiler_that_makes_nothing_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No input leads here today; if one ever does, Argo CD must not see a success."""
    write(tmp_path, {"chat.yaml": MINIMAL})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compiler, "compile_workspace", lambda workspace, **_: compiler.Compilation(workspace))
    assert main(["argocd", "generate"]) == 1
    assert capsys.readouterr().out == ""


def test_an_action_is_needed(tmp_path: Path) -> None:
    assert run("argocd", cwd=tmp_path).returncode == 2
