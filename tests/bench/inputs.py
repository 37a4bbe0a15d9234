"""Copies of the smallest example, for us and for the peers: the same services in everybody's own form."""

import json
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "01-minimal" / "chat.yaml"
PROJECT = """\
apiVersion: serving.aibrix.ai/v1alpha1
kind: Project
metadata: {name: bench}
spec:
  services: [services/*.yaml]
  environments: [{name: default, namespace: default}]
"""


def names(count: int) -> list[str]:
    return ["chat"] if count == 1 else [f"chat-{number:05}" for number in range(count)]


def project(folder: Path, count: int) -> Path:
    """`count` copies of example 01 under names of their own, in one project."""
    (folder / "services").mkdir(parents=True)
    (folder / "aibrix.yaml").write_text(PROJECT)
    text = EXAMPLE.read_text("utf-8")
    for name in names(count):
        copy = text.replace("{name: chat}", f"{{name: {name}}}").replace(
            "model: {uri", f"model: {{servedName: {name}, uri"
        )
        (folder / "services" / f"{name}.yaml").write_text(copy)
    return folder


def values(count: int) -> str:
    """What a chart or a module needs to know of each service; JSON, which every peer reads."""
    return json.dumps({"services": [{"name": name, "replicas": 2, "maxModelLen": 16384} for name in names(count)]})


def filled(**service: str) -> str:
    """The chart's template of one service, filled in without Helm."""
    text = "\n".join((HERE / "chart/templates/services.yaml").read_text("utf-8").splitlines()[1:-1])
    for name, value in service.items():
        text = text.replace(f"{{{{ $s.{name} }}}}", value)
    return text
