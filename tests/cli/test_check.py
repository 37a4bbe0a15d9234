"""`check`: all findings of one run, where they are, and what a wrong call says."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.cli import EXAMPLES, MINIMAL, project, run, write

COMPLETE = Path(__file__).parents[1] / "spec"


def findings(folder: Path, *arguments: str) -> list[dict]:  # type: ignore[type-arg]
    done = run("check", "--format", "json", *arguments, cwd=folder)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def codes(folder: Path, *arguments: str) -> list[str]:
    return [one["code"] for one in findings(folder, *arguments)]


def test_a_good_service(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL})
    done = run("check", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "ok: 1 service in 1 environment\n")


def test_the_shape_of_a_finding(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL.replace("nvidia-l4", "nvidia-l44")})
    (found,) = findings(tmp_path)
    assert found == {
        "code": "AC206",
        "severity": "error",
        "message": 'there is no accelerator "nvidia-l44"',
        "file": "chat.yaml",
        "line": 7,
        "column": 25,
        "endLine": 7,
        "endColumn": 35,
        "hint": found["hint"],
        "fix": {"file": "chat.yaml", "line": 7, "column": 25, "endLine": 7, "endColumn": 35, "text": "nvidia-l40s"}
        if found["fix"]["text"] == "nvidia-l40s"
        else {**found["fix"], "text": "nvidia-l4"},
        "related": [],
        "environments": [],
    }
    assert found["hint"].startswith("did you mean nvidia-l4")


def test_the_same_finding_of_two_environments_is_said_once(tmp_path: Path) -> None:
    two = project(environments="[{name: staging, namespace: s, overlays: [o.yaml]}, {name: prod, namespace: p}]")
    overlay = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec: {engine: {maxModelLen: 999999}}\n"
    write(
        tmp_path,
        {"aibrix.yaml": two, "o.yaml": overlay, "services/chat.yaml": MINIMAL.replace("nvidia-l4", "nvidia-l44")},
    )
    by_code = {one["code"]: one for one in findings(tmp_path)}
    assert by_code["AC206"]["environments"] == ["staging", "prod"]
    assert (by_code["AC306"]["file"], by_code["AC306"]["line"], by_code["AC306"]["environments"]) == (
        "o.yaml",
        4,
        ["staging"],
    )


def test_the_mistake_of_an_overlay_is_its_own(tmp_path: Path) -> None:
    one = project(environments="[{name: prod, namespace: p, overlays: [o.yaml]}]")
    overlay = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec: {engine: {maxModelLen: 10k}}\n"
    write(tmp_path, {"aibrix.yaml": one, "o.yaml": overlay, "services/chat.yaml": MINIMAL})
    (found,) = [one for one in findings(tmp_path) if one["severity"] == "error"]
    assert (found["code"], found["file"], found["line"]) == ("AC104", "o.yaml", 4)


def test_a_path_chooses_what_is_said_but_the_project_above_it_applies(tmp_path: Path) -> None:
    strict = project(environments="[{name: prod, namespace: p, policy: {forbid: [unpinned-image]}}]")
    other = (
        MINIMAL.replace("name: chat", "name: other")
        .replace("{uri:", "{servedName: o, uri:")
        .replace("nvidia-l4", "nvidia-l44")
    )
    write(tmp_path, {"aibrix.yaml": strict, "services/chat.yaml": MINIMAL, "services/other.yaml": other})
    assert codes(tmp_path, "services/chat.yaml") == ["AC217", "AC403"]
    assert "AC206" in codes(tmp_path)
    done = run("check", "chat.yaml", cwd=tmp_path / "services")
    assert "--> chat.yaml:" in done.stdout  # relative to where the command runs


def test_another_services_mistake_does_not_stop_a_service(tmp_path: Path) -> None:
    other = (
        MINIMAL.replace("name: chat", "name: other")
        .replace("{uri:", "{servedName: o, uri:")
        .replace("nvidia-l4", "nvidia-l44")
    )
    write(tmp_path, {"aibrix.yaml": project(), "services/chat.yaml": MINIMAL, "services/other.yaml": other})
    assert run("check", "services/chat.yaml", cwd=tmp_path).returncode == 0
    done = run("build", "services/chat.yaml", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out/prod").iterdir()} == {"chat"}


def test_a_fix_for_the_project_itself(tmp_path: Path) -> None:
    write(
        tmp_path, {"aibrix.yaml": project().replace("namespace: llm", "namespaec: llm"), "services/chat.yaml": MINIMAL}
    )
    fixes = [one["fix"]["text"] for one in findings(tmp_path) if one["code"] == "AC101"]
    assert fixes == ["namespace"]


def test_quota_counts_all_services(tmp_path: Path) -> None:
    tight = project(environments="[{name: prod, namespace: p, accelerators: {nvidia-l4: {quota: 3}}}]")
    other = MINIMAL.replace("name: chat", "name: other").replace("{uri:", "{servedName: o, uri:")
    write(tmp_path, {"aibrix.yaml": tight, "services/chat.yaml": MINIMAL, "services/other.yaml": other})
    (found,) = [one for one in findings(tmp_path) if one["severity"] == "error"]
    assert (
        found["code"] == "AC304" and "4 nvidia-l4 GPUs" in found["message"] and found["file"] == "services/other.yaml"
    )


def test_includes_bring_adapters_with_their_lines(tmp_path: Path) -> None:
    service = MINIMAL + "  adapters: {include: [adapters/*.yaml], items: [{name: a, uri: s3://b/a}]}\n"
    write(
        tmp_path,
        {
            "chat.yaml": service,
            "adapters/one.yaml": "adapters:\n  - {name: a, uri: s3://b/x}\n  - {name: c, uri: ftp://b/c}\n",
        },
    )
    found = findings(tmp_path, "chat.yaml")
    assert [(one["code"], one["file"], one["line"]) for one in found] == [
        ("AC203", "adapters/one.yaml", 2),
        ("AC111", "adapters/one.yaml", 3),
    ]


def test_a_config_json_gives_the_sizes(tmp_path: Path) -> None:
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 512,
        "intermediate_size": 256,
        "torch_dtype": "bfloat16",
    }
    service = MINIMAL.replace(
        "{uri: hf://meta-llama/Llama-3.1-8B-Instruct}", "{uri: s3://b/own-model, shape: own/config.json}"
    )
    write(tmp_path, {"chat.yaml": service, "own/config.json": json.dumps(config)})
    assert codes(tmp_path, "chat.yaml") == ["AC306"]
    del config["vocab_size"]
    write(tmp_path, {"own/config.json": json.dumps(config)})
    assert findings(tmp_path, "chat.yaml")[0]["message"] == "own/config.json has no vocab_size"


def test_an_overlay_may_name_a_config_json(tmp_path: Path) -> None:
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "intermediate_size": 256,
    }
    config |= {"max_position_embeddings": 32768, "torch_dtype": "bfloat16"}  # type: ignore[dict-item]
    overlay = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec: {model: {shape: config.json}}\n"
    one = project(environments="[{name: prod, namespace: p, overlays: [o.yaml]}]")
    service = MINIMAL.replace("hf://meta-llama/Llama-3.1-8B-Instruct", "s3://b/own")
    write(
        tmp_path,
        {"aibrix.yaml": one, "o.yaml": overlay, "services/chat.yaml": service, "config.json": json.dumps(config)},
    )
    assert findings(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (
            {
                "services/chat.yaml": MINIMAL.replace("[{accelerator: nvidia-l4, replicas: 2}]", "[]"),
                "aibrix.yaml": project(),
            },
            "AC102",
        ),
        ({"services/chat.yaml": MINIMAL, "aibrix.yaml": project(environments="[]")}, "AC102"),
        ({"services/chat.yaml": MINIMAL, "aibrix.yaml": project().replace("[services/*.yaml]", "[]")}, "AC102"),
    ],
    ids=["pools", "environments", "services"],
)
def test_nothing_to_do_is_a_mistake(tmp_path: Path, files: dict[str, str], code: str) -> None:
    write(tmp_path, files)
    assert [one["code"] for one in findings(tmp_path) if one["severity"] == "error"] == [code]


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "[" * 100_000])
def test_a_config_json_that_is_none(tmp_path: Path, text: str) -> None:
    service = MINIMAL.replace(
        "{uri: hf://meta-llama/Llama-3.1-8B-Instruct}", "{uri: s3://b/own-model, shape: config.json}"
    )
    write(tmp_path, {"chat.yaml": service, "config.json": text})
    assert "AC125" in codes(tmp_path, "chat.yaml")


@pytest.mark.parametrize("pattern", ["../outside.yaml", "/etc/passwd", "link.yaml", "a/../../outside.yaml"])
def test_nothing_outside_the_project_is_read(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, {"outside.yaml": "adapters: []\nsecret: 1\n"})
    inner = tmp_path / "project"
    write(
        inner,
        {
            "aibrix.yaml": project(),
            "services/chat.yaml": MINIMAL + f'  adapters: {{include: ["../{pattern}"]}}\n',
            "a/x": "",
        },
    )
    if pattern.startswith("/"):
        write(inner, {"services/chat.yaml": MINIMAL + f'  adapters: {{include: ["{pattern}"]}}\n'})
    (inner / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    found = findings(inner)
    assert [one["code"] for one in found if one["severity"] == "error"] == ["AC124"]
    assert "secret" not in json.dumps(found)


def test_globs_that_match_nothing_and_overlays_for_nobody(tmp_path: Path) -> None:
    wrong = project(environments="[{name: prod, namespace: p, overlays: [o.yaml, p*.yaml]}]")
    overlay = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: caht}\nspec: {}\n"
    write(tmp_path, {"aibrix.yaml": wrong, "o.yaml": overlay, "services/chat.yaml": MINIMAL})
    assert sorted(set(codes(tmp_path)) - {"AC217"}) == ["AC120", "AC121"]


def test_the_lock_pins_and_is_read_strictly(tmp_path: Path) -> None:
    lock = (
        "models: {hf://meta-llama/Llama-3.1-8B-Instruct@main: abc}\nimages: {docker.io/vllm/vllm-openai:v0.32.0: sha256:"
        + "0" * 64
        + "}\n"
    )
    strict = project(environments="[{name: prod, namespace: p, policy: {forbid: [unpinned-image, unlocked-revision]}}]")
    write(tmp_path, {"aibrix.yaml": strict, "services/chat.yaml": MINIMAL, "aibrix.lock": lock})
    assert codes(tmp_path) == []
    write(tmp_path, {"aibrix.lock": "models: [1]\n"})
    assert set(codes(tmp_path)) == {"AC125", "AC403", "AC405"}


def test_duplicate_served_names_and_objects(tmp_path: Path) -> None:
    files = {f"services/{name}.yaml": MINIMAL.replace("name: chat", f"name: {name}") for name in ("a", "b")}
    write(tmp_path, {"aibrix.yaml": project(), **files})
    (found,) = [one for one in findings(tmp_path) if one["severity"] == "error"]
    assert found["code"] == "AC202" and found["related"][0]["file"] == "services/a.yaml"
    files = {
        "services/a.yaml": MINIMAL.replace("name: chat", "name: a").replace("{accelerator", "{name: b-c, accelerator"),
        "services/b.yaml": MINIMAL.replace("name: chat", "name: a-b")
        .replace("{accelerator", "{name: c, accelerator")
        .replace("{uri:", "{servedName: x, uri:"),
    }
    write(tmp_path, files)
    assert [one["code"] for one in findings(tmp_path) if one["severity"] == "error"] == ["AC201"]


def test_warnings_exit_0_unless_denied(tmp_path: Path) -> None:
    write(tmp_path, {"aibrix.yaml": project(), "services/chat.yaml": MINIMAL})
    assert run("check", cwd=tmp_path).returncode == 0
    assert run("check", "--deny", "warnings", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "nothing.yaml"], "nothing.yaml: no such file or folder"),
        (["check", "empty"], "no ModelService in empty"),
        (["check", "-e", "prod", "chat.yaml"], "there is no environment prod; environments: default"),
        (["build", "chat.yaml"], "build needs -o DIR"),
        (["explain", "AC999"], "there is no code AC999"),
        (["explain", "nothing.here"], "nothing"),
    ],
)
def test_wrong_calls(tmp_path: Path, arguments: list[str], words: str) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL, "empty/readme.txt": "x"})
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff\xfe\x00", "AC003"),
        (b"kind: \x1b[31m", "AC003"),
        (b"a: [1", "AC001"),
        (b"kind: ConfigMap\n", "AC108"),
        (b"- 1\n", "AC108"),
        (b"x" * (2 * 1024 * 1024 + 1), "AC004"),
    ],
)
def test_files_that_are_no_service(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "chat.yaml").write_bytes(content)
    done = run("check", "--format", "json", "chat.yaml", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)[0]["code"] == code


def test_a_folder_of_other_yaml_is_passed_by(tmp_path: Path) -> None:
    write(
        tmp_path, {"chat.yaml": MINIMAL, "helm/x.yaml": "{{ not yaml", "k8s.yaml": "kind: Service\n", "empty.yaml": ""}
    )
    assert codes(tmp_path) == []


def test_an_unreadable_file(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL})
    (tmp_path / "chat.yaml").chmod(0)
    done = run("check", "chat.yaml", cwd=tmp_path, ordinary=True)
    assert done.returncode == 2 and "permission denied" in done.stderr


def test_sarif_fits_its_schema(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL.replace("nvidia-l4", "nvidia-l44")})
    done = run("check", "--format", "sarif", cwd=tmp_path)
    schema = json.loads(next((Path(__file__).parents[1] / "report").glob("*sarif*.json")).read_text("utf-8"))
    jsonschema.validate(json.loads(done.stdout), schema)
    assert json.loads(done.stdout)["runs"][0]["results"][0]["ruleId"] == "AC206"


def test_github_annotations(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL.replace("nvidia-l4", "nvidia-l44")})
    assert run("check", "--format", "github", cwd=tmp_path).stdout.startswith("::error file=chat.yaml,line=7,")


def test_the_complete_spec_is_accepted(tmp_path: Path) -> None:
    text = (COMPLETE / "complete.yaml").read_text("utf-8")
    write(
        tmp_path, {"complete.yaml": text, "adapters/more.yaml": "adapters: [{name: tax-v1, uri: s3://adapters/tax}]\n"}
    )
    assert findings(tmp_path, "complete.yaml") == []


def test_a_bug_of_ours_says_so(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL})
    code = (
        "import sys, aibrix_compile.passes as p; from aibrix_compile.cli.main import main\n"
        "p.run = lambda *a: 1 / 0\nsys.exit(main(['check', 'chat.yaml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (
        done.returncode == 3 and "This is a bug in aibrix-compile" in done.stderr and "ZeroDivisionError" in done.stderr
    )


def test_output_pipes_cleanly() -> None:
    command = f"{sys.executable} -m aibrix_compile build --stdout | head -1"
    done = subprocess.run(command, shell=True, cwd=EXAMPLES / "02-environments", capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("---\n", "")


def test_version_help_and_completion(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout.startswith("aibrix-compile 0.")
    for arguments in (
        ["--help"],
        *([name, "--help"] for name in ("init", "check", "build", "explain", "schema", "completion")),
    ):
        assert run(*arguments, cwd=tmp_path).returncode == 0
    for shell in ("bash", "zsh"):
        assert "aibrix-compile" in run("completion", shell, cwd=tmp_path).stdout


def test_init_writes_a_project_that_builds(tmp_path: Path) -> None:
    assert run("init", "new", cwd=tmp_path).returncode == 0
    folder = tmp_path / "new"
    assert (folder / ".github/workflows/aibrix.yaml").is_file()
    done = run("check", "--deny", "warnings", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert run("build", "-o", "deploy", cwd=folder).returncode == 0
    assert run("build", "-o", "deploy", "--check", cwd=folder).returncode == 0
    again = run("init", cwd=folder)
    assert again.returncode == 2 and "overwrites nothing" in again.stderr
