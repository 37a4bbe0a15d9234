"""One run reports everything: mistakes of decoding and of meaning, each once, in file order, and no consequence of one."""

import shutil
from pathlib import Path

from aibrix_compile.compiler import compile_workspace
from aibrix_compile.diagnostics import Diagnostic
from aibrix_compile.loading import load

THIRTY = Path(__file__).parents[1] / "spec" / "thirty.yaml"
MEANING = """\
apiVersion: serving.aibrix.ai/v1alpha1
kind: ModelService
metadata:
  name: support-chat
  labels: {app.kubernetes.io/name: x, team: not ok}
spec:
  model:
    uri: hf://Qwen/Qwen2.5-7B-Instruct
    servedName: refunds
    loading: {cache: {claim: weights, create: {size: 100Gi}}}
  engine:
    name: vllm
    version: 0.32.0
    maxModelLen: 65536
    env:
      HF_HOME: /data
      TOKEN: {secret: keys}
    args:
      max_num_seqs: 128
      port: 9000
      kv-cache-dtype: int4
      swap-space: 4
      disable-cascade-attn: true
  pools:
    - {accelerator: nvidia-l4, replicas: {count: 2, max: 4}}
    - {name: a, accelerator: nvidia-l44}
    - {name: b, accelerator: nvidia-l4, replicas: {min: 3, max: 1}}
    - {name: c, accelerator: nvidia-l4, parallelism: {tensor: 3}}
    - {name: c, accelerator: nvidia-h100-80g, replicas: {min: 1, max: 2}}
    - {name: d, accelerator: nvidia-l4, spot: true}
  adapters:
    items:
      - {name: refunds, uri: s3://adapters/refunds}
      - {name: legal, uri: s3://adapters/legal, rank: 64}
      - {name: legal, uri: s3://adapters/legal-2}
  routing: {spillTo: nobody}
  rollout: {maxUnavailable: 0, maxSurge: 0%}
"""


def _check(text: str, folder: Path) -> list[Diagnostic]:
    (folder / "chat.yaml").write_text(text, "utf-8")
    return compile_workspace(load([Path("chat.yaml")], folder), build=False).diagnostics


def test_thirty_and_more_mistakes_of_decoding(tmp_path: Path) -> None:
    found = _check(THIRTY.read_text("utf-8"), tmp_path)
    assert len(found) >= 30
    places = [(one.span.line, one.span.column) for one in found]
    assert places == sorted(places) and len(set(places)) == len(places)


def test_mistakes_of_meaning(tmp_path: Path) -> None:
    found = [(one.span.line, one.code) for one in _check(MEANING, tmp_path)]
    assert found == [
        *((5, "AC220"), (5, "AC220"), (10, "AC224"), (14, "AC306"), (16, "AC215"), (17, "AC215")),
        *((19, "AC208"), (20, "AC209"), (21, "AC210"), (22, "AC208"), (23, "AC211")),
        *((25, "AC213"), (26, "AC206"), (27, "AC213"), (28, "AC303"), (29, "AC203"), (29, "AC214"), (30, "AC505")),
        *((33, "AC216"), (34, "AC212"), (35, "AC203"), (36, "AC225"), (37, "AC219")),
    ]


def test_correcting_mistakes_one_by_one_brings_no_new_ones(tmp_path: Path) -> None:
    """A finding is independent: removing the line of another changes nothing about it."""
    before = {(one.code, one.message) for one in _check(MEANING, tmp_path)}
    lines = MEANING.splitlines(keepends=True)
    for line in ("maxModelLen: 65536", "HF_HOME", "swap-space", "disable-cascade", "rollout:", "routing:"):
        shorter = "".join(one for one in lines if line not in one)
        assert {(one.code, one.message) for one in _check(shorter, tmp_path)} <= before, line


def test_the_same_mistakes_in_a_project_are_the_same(tmp_path: Path) -> None:
    alone = [(one.span.line, one.code) for one in _check(MEANING, tmp_path)]
    shutil.rmtree(tmp_path)
    (tmp_path / "services").mkdir(parents=True)
    (tmp_path / "services" / "chat.yaml").write_text(MEANING, "utf-8")
    (tmp_path / "aibrix.yaml").write_text(
        "apiVersion: serving.aibrix.ai/v1alpha1\nkind: Project\nmetadata: {name: p}\nspec:\n"
        "  services: [services/*.yaml]\n  environments: [{name: a, namespace: a}, {name: b, namespace: b}]\n"
    )
    found = compile_workspace(load([], tmp_path), build=False).diagnostics
    assert [(one.span.line, one.code) for one in found if one.code != "AC217"] == alone
    assert all(one.environments == ("a", "b") for one in found)
