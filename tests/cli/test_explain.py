"""`explain` in its four forms."""

from pathlib import Path

import pytest

from aibrix_compile.codes import TITLES
from tests.cli import EXAMPLES, run

PROJECT = EXAMPLES / "02-environments"


@pytest.mark.parametrize("code", TITLES)
def test_every_code_has_a_page(code: str) -> None:
    assert run("explain", code.lower(), cwd=PROJECT).stdout.startswith(f"# {code}")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("scaling.strategy", "hpa"),
        ("spec.engine.args", "flags"),
        ("pools.accelerator", "catalog"),
        ("pools[0].replicas", "replicas"),
        ("environments.policy.forbid", "latest-tag"),
    ],
)
def test_a_field(field: str, words: str) -> None:
    done = run("explain", field, cwd=PROJECT)
    assert done.returncode == 0 and words in done.stdout, done.stderr


def test_a_value_in_each_environment() -> None:
    done = run("explain", "services/support-chat.yaml", "engine.maxModelLen", cwd=PROJECT)
    assert done.stdout.splitlines() == [
        "support-chat in staging:",
        "  spec.engine.maxModelLen = 8192",
        "    set at overlays/staging.yaml:6:25",
        "support-chat in prod:",
        "  spec.engine.maxModelLen = 16384",
        "    set at services/support-chat.yaml:12:18",
    ]


def test_the_arithmetic_of_sizing() -> None:
    done = run("explain", "services/support-chat.yaml", "pools[0].accelerator", "-e", "prod", cwd=PROJECT)
    assert "weights: 7.62 B parameters as bfloat16" in done.stdout
    assert "for the KV cache" in done.stdout


def test_a_decided_value() -> None:
    done = run("explain", "services/support-chat.yaml", "model.revision", "-e", "prod", cwd=PROJECT)
    assert '"main" is locked to it by aibrix.lock:5' in done.stdout
    done = run("explain", "services/support-chat.yaml", "rollout", cwd=PROJECT)
    assert "the quota leaves" in done.stdout
    everything = run("explain", "services/support-chat.yaml", cwd=PROJECT).stdout
    assert "spec.engine.image -> registry.example.com/mirror/vllm/vllm-openai:v0.32.0@sha256:" in everything


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("spec.replicas", "overlays/prod.yaml:6:28"),
        ("spec.template.spec.containers[0].args[4]", "services/support-chat.yaml:12:18"),
        ("spec.template.spec.priorityClassName", "overlays/prod.yaml:6:46"),
        ("spec.template.spec.containers[0].resources.requests.memory", "80% of what a node"),
        ('metadata.labels["team"]', "services/support-chat.yaml:4:"),
        ("spec.strategy", "the quota leaves"),
    ],
)
def test_a_field_of_an_emitted_object(path: str, words: str) -> None:
    file = "expected/prod/support-chat/40-deployment-support-chat-l4.yaml"
    done = run("explain", file, path, cwd=PROJECT)
    assert done.returncode == 0 and words in done.stdout, done.stdout + done.stderr


def test_an_object_of_the_gateway_leads_to_the_project() -> None:
    example = PROJECT.parent / "08-gateway"
    done = run("explain", "expected/prod/gateway/40-deployment-prod-picker.yaml", "spec.replicas", cwd=example)
    assert "spec.environments[1].gateway at aibrix.yaml:21:7" in done.stdout, done.stdout + done.stderr


def test_every_field_of_every_object_leads_to_the_spec(tmp_path: Path) -> None:
    """Not one object without a source; and the file must be one that a build writes."""
    (tmp_path / "x.yaml").write_text("kind: Service\n")
    done = run("explain", str(tmp_path / "x.yaml"), "kind", cwd=PROJECT)
    assert done.returncode == 2
