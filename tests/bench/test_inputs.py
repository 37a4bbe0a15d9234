"""The benchmark compares like with like: its projects are sound, and the peers' templates make our objects."""

from pathlib import Path

import pytest

from aibrix_compile.cli.main import main
from tests.bench import inputs, peers, run


def test_copies_are_a_sound_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project, again = (inputs.project(tmp_path / name, 12) for name in "ab")
    assert main(["check", str(project)]) == 0, capsys.readouterr().err
    assert main(["build", str(project), "-o", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").rglob("*.yaml"))) == 12 * 7
    texts = [[path.read_bytes() for path in sorted(one.rglob("*.yaml"))] for one in (project, again)]
    assert texts[0] == texts[1]


def test_the_chart_makes_our_objects(tmp_path: Path) -> None:
    assert main(["build", str(inputs.project(tmp_path / "p", 1)), "-o", str(tmp_path / "out")]) == 0
    rendered = inputs.filled(name="chat", replicas="2", maxModelLen="16384")
    assert run.differences(tmp_path / "out", rendered) == []
    assert run.differences(tmp_path / "out", rendered.replace("maxSurge: 0", "maxSurge: 1")) == [
        "Deployment chat-nvidia-l4.spec.strategy.rollingUpdate.maxSurge differs"
    ]


@pytest.mark.parametrize("name", peers.ALL)
def test_a_peer_makes_our_objects(name: str, tmp_path: Path) -> None:
    if (program := peers.ALL[name](install=False)) is None:
        pytest.skip(f"{name} is not built; `make bench` does it, and compares as well")
    assert run.compare(name, program, 2, tmp_path / "work") == []
