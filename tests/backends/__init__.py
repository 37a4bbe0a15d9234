"""Objects of features that no example shows, built from a spec in one call."""

from pathlib import Path
from typing import Any

from aibrix_compile.artifact import Object
from aibrix_compile.compiler import Compilation, compile_workspace
from aibrix_compile.loading import load

MODEL = "{uri: hf://Qwen/Qwen2.5-7B-Instruct, revision: a09a35458c702b33eeacc393d103063234e8bc28}"
PROJECT = """\
apiVersion: serving.aibrix.ai/v1alpha1
kind: Project
metadata: {name: p}
spec:
  services: [services/*.yaml]
IMAGES  environments: [{name: prod, namespace: llm, ENVIRONMENT}]
"""
IMAGES = "  images: {controllers: registry.example.com/controllers:1, runtime: registry.example.com/runtime:1}\n"
GATEWAY = "gateway: {apiKeys: {secret: k}, tenants: [{name: acme}, {name: beta}]}"


def compiled(
    folder: Path,
    *,
    model: str = MODEL,
    pools: str = "[{accelerator: nvidia-l4}]",
    more: str = "",
    environment: str = "",
    images: bool | None = None,
) -> Compilation:
    """One service `chat` in environment `prod`; `more` are further lines below spec. With adapters or a scaler it has our `images`, too."""
    ours = IMAGES if images or (images is None and ("adapters:" in more or "scaling:" in more)) else ""
    (folder / "services").mkdir(parents=True, exist_ok=True)
    (folder / "aibrix.yaml").write_text(
        PROJECT.replace("ENVIRONMENT", environment or "apis: []").replace("IMAGES", ours)
    )
    (folder / "services" / "chat.yaml").write_text(
        "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec:\n"
        f"  model: {model}\n  engine: {{name: vllm, version: 0.32.0, maxModelLen: 16384}}\n  pools: {pools}\n{more}"
    )
    return compile_workspace(load([], folder), build=True)


def objects(folder: Path, **spec: Any) -> dict[str, Object]:
    """The objects as `Kind/name`; the spec must be without an error."""
    result = compiled(folder, **spec)
    assert not result.failed, [f"{one.code} {one.message}" for one in result.diagnostics]
    return {f"{one.object['kind']}/{one.object['metadata']['name']}": one.object for one in result.artifacts}
