"""The benchmark compares like with like: its projects are sound, and the peers' templates make our objects."""

import subprocess
from pathlib import Path

from aibrix_compile.compiler import compile_workspace
from aibrix_compile.emit import yaml_text
from aibrix_compile.loading import load
from tests.bench import inputs, peers, run


def test_copies_are_a_sound_project(tmp_path: Path) -> None:
    result = compile_workspace(load([], inputs.project(tmp_path / "p", 12)), build=True)
    assert not result.failed
    assert len(result.artifacts) == 12 * 7


def test_the_chart_makes_our_objects(tmp_path: Path) -> None:
    """With Helm where a benchmark has built it; else by filling in its few placeholders."""
    result = compile_workspace(load([], inputs.project(tmp_path / "p", 1)), build=True)
    for artifact in result.artifacts:
        (tmp_path / "out" / artifact.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / artifact.path).write_text(yaml_text(artifact.object))
    values = tmp_path / "values.json"
    values.write_text(inputs.values(1))
    helm = peers.cache() / "helm"
    if helm.exists():
        command = [helm, "template", "x", run.HERE / "chart", "-f", values]
        rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    else:
        lines = (run.HERE / "chart/templates/services.yaml").read_text().splitlines()[1:-1]
        rendered = "\n".join(lines)
        for name, value in (("name", "chat"), ("replicas", "2"), ("maxModelLen", "16384")):
            rendered = rendered.replace(f"{{{{ $s.{name} }}}}", value)
    assert run.same_objects(tmp_path / "out", rendered)
