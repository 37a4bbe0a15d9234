"""Two states of a project as files, compiled and compared without a process or a repository."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

from aibrix_compile.cli.main import main
from aibrix_compile.compiler import compile_workspace
from aibrix_compile.diff.compare import compare
from aibrix_compile.diff.difference import Difference, ServiceDifference
from aibrix_compile.diff.sides import Side, side
from aibrix_compile.loading import load
from tests.cli import write

PROJECT = """\
apiVersion: serving.aibrix.ai/v1alpha1
kind: Project
metadata: {name: p}
spec:
  services: [services/*.yaml]
  images: {controllers: registry.example.com/controllers:1, runtime: registry.example.com/runtime:1}
  environments:
    - name: prod
      namespace: llm
      apis: [monitoring.coreos.com/v1, leaderworkerset.x-k8s.io/v1]
      accelerators:
        nvidia-l4: {nodeSelector: {cloud.google.com/gke-accelerator: nvidia-l4}, pricePerGPUHour: 0.71 USD, quota: 12}
        nvidia-h100-80g: {nodeSelector: {cloud.google.com/gke-accelerator: nvidia-h100-80gb}, pricePerGPUHour: 9.80 USD, quota: 64}
      argocd: {repoURL: https://git.example.com/llm/deploy, path: deploy/prod}
"""
SERVICE = """\
apiVersion: serving.aibrix.ai/v1alpha1
kind: ModelService
metadata: {name: chat}
spec:
  model: {uri: hf://Qwen/Qwen2.5-7B-Instruct, revision: a09a35458c702b33eeacc393d103063234e8bc28, servedName: chat}
  engine: {name: vllm, version: 0.32.0, maxModelLen: 8192}
  pools: [{name: l4, accelerator: nvidia-l4, replicas: 2}]
"""
FILES = {"aibrix.yaml": PROJECT, "services/chat.yaml": SERVICE}


def compiled(folder: Path, files: Mapping[str, str], only: Sequence[str] = ()) -> Side:
    write(folder, dict(files))
    result = compile_workspace(load([folder], folder), build=True, only=only)
    assert not result.failed, [one.message for one in result.diagnostics]
    return side(result)


def edited(files: Mapping[str, str], *edits: tuple[str, str]) -> dict[str, str]:
    """The files with each text replaced wherever it stands; it must stand somewhere."""
    found = dict(files)
    for old, new in edits:
        assert any(old in text for text in found.values()), old
        found = {name: text.replace(old, new) for name, text in found.items()}
    return found


def difference(folder: Path, before: Mapping[str, str], after: Mapping[str, str]) -> Difference:
    return compare(compiled(folder / "before", before), compiled(folder / "after", after))


def only_service(found: Difference) -> ServiceDifference:
    (service,) = found.services
    return service


def invoke(*arguments: str | Path, cwd: Path) -> CompletedProcess[str]:
    """The command in this process: what tests.cli.run does in one of its own, twenty times as fast."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(one) for one in arguments])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
