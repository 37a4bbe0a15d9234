"""The command line as its users meet it: processes, files, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

MINIMAL = """\
apiVersion: serving.aibrix.ai/v1alpha1
kind: ModelService
metadata: {name: chat}
spec:
  model: {uri: hf://meta-llama/Llama-3.1-8B-Instruct}
  engine: {name: vllm, version: 0.32.0, maxModelLen: 16384}
  pools: [{accelerator: nvidia-l4, replicas: 2}]
"""


def run(
    *arguments: str | Path, cwd: Path, ordinary: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`ordinary`: without root's power to pass by file modes, whoever runs the tests."""
    command = [sys.executable, "-m", "aibrix_compile", *map(str, arguments)]
    if ordinary and os.geteuid() == 0:
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1", **environment}
    )


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


def project(*, environments: str = "[{name: prod, namespace: llm}]", **more: str) -> str:
    rest = "".join(f"  {key}: {value}\n" for key, value in more.items())
    return (
        "apiVersion: serving.aibrix.ai/v1alpha1\nkind: Project\nmetadata: {name: p}\nspec:\n"
        f"  services: [services/*.yaml]\n  environments: {environments}\n{rest}"
    )
