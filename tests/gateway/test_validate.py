"""`envoy --mode validate` over the static form of every gateway in the examples: what no unit test of a dictionary can know."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from aibrix_compile.backends import gateway
from aibrix_compile.compiler import compile_workspace
from aibrix_compile.emit import yaml_text
from aibrix_compile.loading import load
from aibrix_compile.plan import EnvironmentPlan
from tests.gateway.running import ENVOY, ROOT, certificate

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/*.yaml") if "gateway:" in path.read_text())


def plans() -> list[tuple[str, EnvironmentPlan]]:
    found = []
    for folder in EXAMPLES:
        workspace = load([folder], folder)
        workspace.selected = None
        result = compile_workspace(workspace, build=True)
        found += [(f"{folder.name} {plan.name}", plan) for plan in result.plans if plan.gateway is not None]
    return found


PLANS = plans()


def validated(folder: Path, content: dict[str, object]) -> subprocess.CompletedProcess[str]:
    file = folder / "envoy.yaml"
    file.write_text(yaml_text(content))
    return subprocess.run([ENVOY, "--mode", "validate", "-c", file], capture_output=True, text=True, timeout=60)


def place(plan: EnvironmentPlan, folder: Path) -> gateway.Place:
    """The pod's, but for the file of keys, which Envoy reads even to validate, and the certificate."""
    assert plan.gateway is not None
    keys = folder / "keys"
    keys.mkdir()
    (keys / "api_keys.yaml").write_text("resources: []\n")
    certificate(folder / "tls", "llm.example.com")
    return dataclasses.replace(gateway.place(plan.gateway), keys=str(keys), tls=str(folder / "tls"))


def test_there_are_examples_with_a_gateway() -> None:
    assert {"08-gateway dev", "08-gateway prod"} <= {name for name, _ in PLANS}


@pytest.mark.parametrize(("name", "plan"), PLANS, ids=[name for name, _ in PLANS])
def test_envoy_takes_what_is_emitted(tmp_path: Path, name: str, plan: EnvironmentPlan) -> None:
    done = validated(tmp_path, gateway.static(plan, place(plan, tmp_path)))
    assert done.returncode == 0, done.stderr[-2000:]


def test_and_would_not_take_anything(tmp_path: Path) -> None:
    content = gateway.static(PLANS[0][1], place(PLANS[0][1], tmp_path))
    content["static_resources"]["clusters"][0]["nonsense"] = 1
    done = validated(tmp_path, content)
    assert done.returncode == 1 and "nonsense" in done.stderr
