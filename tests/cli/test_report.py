"""`report`: one comment from check, diff and simulations of both sides."""

import json
from pathlib import Path

import pytest

from tests.cli import MINIMAL, project, run, write
from tests.diff.repositories import committed

SERVICE = (
    MINIMAL + "  workload: {inputTokens: 600, outputTokens: 80, requestsPerSecond: 2}\n" + "  slo: {ttft: {p99: 2s}}\n"
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    committed(
        write(tmp_path, {"aibrix.yaml": project(), "services/chat.yaml": SERVICE, "services/other.yaml": other()})
    )
    return tmp_path


def other() -> str:
    return MINIMAL.replace("name: chat", "name: other").replace("8B-Instruct}", "8B-Instruct, servedName: other}")


def change(repository: Path, old: str, new: str, name: str = "chat") -> None:
    path = repository / f"services/{name}.yaml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_a_reviewer_sees_what_a_change_does(repository: Path) -> None:
    change(repository, "replicas: 2", "replicas: 1")
    done = run("report", "HEAD", "-o", "out", cwd=repository)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "<!-- aibrix-compile:diff -->" and lines[1].startswith("**`chat` changes in `prod`")
    assert "**Simulated**" in done.stdout and "2.00 → 1.00" in done.stdout
    assert (repository / "out/comment.md").read_text("utf-8") == done.stdout
    data = json.loads((repository / "out/report.json").read_text("utf-8"))
    (study,) = data["simulations"]
    assert [one["name"] for one in study["variants"]] == ["base", "head"]
    before, after = (one["score"] for one in study["variants"])
    assert after["ttft"]["p99"] > before["ttft"]["p99"] and after["cost"] < before["cost"]
    assert "<html" in (repository / "out/simulation-prod-chat.html").read_text("utf-8")


def test_nothing_changes_nothing_is_simulated(repository: Path) -> None:
    done = run("report", "HEAD", cwd=repository)
    assert done.returncode == 0 and "**Simulated**" not in done.stdout and "nothing changes" in done.stdout


def test_what_is_not_simulated_is_said(repository: Path) -> None:
    change(repository, "replicas: 2", "replicas: 3", "other")
    done = run("report", "HEAD", cwd=repository)
    assert "Not simulated: `other in prod`: `it has no workload, and no trace was given`" in done.stdout


def test_a_new_service_has_only_its_own_figures(repository: Path) -> None:
    write(
        repository,
        {
            "services/new.yaml": SERVICE.replace("name: chat", "name: new").replace(
                "8B-Instruct}", "8B-Instruct, servedName: new}"
            )
        },
    )
    done = run("report", "HEAD", cwd=repository)
    assert (
        done.returncode == 0
        and "`new in prod`" in done.stdout
        and "✅ kept" in done.stdout
        and "→ ✅" not in done.stdout
    )


def test_a_gate_fails_after_everything_was_written(repository: Path) -> None:
    change(repository, "p99: 2s", "p99: 60ms")
    done = run("report", "HEAD", "--gate", "-o", "out", cwd=repository)
    assert done.returncode == 1 and "gate: chat in prod: slo.ttft.p99 is " in done.stderr
    assert "**Broken promises**" in (repository / "out/comment.md").read_text("utf-8")
    assert run("report", "HEAD", cwd=repository).returncode == 0


def test_a_head_that_does_not_compile(repository: Path) -> None:
    change(repository, "nvidia-l4", "nvidia-l44")
    done = run("report", "HEAD", "-o", "out", cwd=repository)
    assert done.returncode == 1 and "AC206" in done.stdout and "does not compile" in done.stdout
    assert (repository / "out/comment.md").read_text("utf-8") == done.stdout


def test_a_trace_for_all(repository: Path) -> None:
    change(repository, "replicas: 2", "replicas: 3", "other")
    write(repository, {"t.csv": "arrival_s,input_tokens,output_tokens\n" + "".join(f"{n},300,20\n" for n in range(60))})
    done = run("report", "HEAD", "--trace", "t.csv", cwd=repository)
    assert done.returncode == 0 and "`other in prod`" in done.stdout and "Not simulated" not in done.stdout
    write(repository, {"t.csv": "arrival_s,input_tokens,output_tokens\n0,300,x\n"})
    bad = run("report", "HEAD", "--trace", "t.csv", cwd=repository)
    assert bad.returncode == 2 and "t.csv:2:7" in bad.stderr and "Traceback" not in bad.stderr


def test_names_from_a_spec_are_quoted(repository: Path) -> None:
    change(repository, "replicas: 2", "replicas: 3")
    write(repository, {"t|x@y.csv": "arrival_s,input_tokens,output_tokens\n0,300,20\n"})
    done = run("report", "HEAD", "--trace", "t|x@y.csv", cwd=repository)
    assert done.returncode == 0 and " @y" not in done.stdout
