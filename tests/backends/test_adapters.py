"""AdapterSets: one more adapter is one small change, thousands fit, and nothing is promised without room."""

from pathlib import Path

import pytest

from aibrix_compile.emit import yaml_text
from tests.backends import GATEWAY, compiled, objects


def items(count: int, extra: str = "") -> str:
    lines = "".join(
        f"      - {{name: a{number:05}, uri: s3://adapters/a{number:05}{extra}}}\n" for number in range(count)
    )
    return f"  adapters:\n    limits: {{maxLoaded: 8, maxCached: 64, maxRank: 32}}\n    whenMissing: hold\n    items:\n{lines}"


def sets(folder: Path, more: str, **spec: str) -> dict[str, str]:
    return {
        name: yaml_text(one)
        for name, one in objects(folder, more=more, environment=GATEWAY, **spec).items()
        if name.startswith("AdapterSet/")
    }


def test_the_set_and_the_engine_say_the_same(tmp_path: Path) -> None:
    more = (
        "  adapters:\n    limits: {maxLoaded: 4, maxCached: 16, maxRank: 32}\n    items:\n"
        "      - {name: everywhere, uri: s3://adapters/a, replicas: all, rank: 16, priority: 5}\n"
        "      - {name: kept, uri: hf://acme/lora, replicas: {min: 1}, credentials: {secret: hf, key: token}}\n"
        "      - {name: rare, uri: s3://adapters/c}\n"
    )
    found = objects(tmp_path, more=more, environment=GATEWAY)
    listed = {
        item["name"]: item
        for name, one in found.items()
        if name.startswith("AdapterSet/")
        for item in one["spec"]["items"]
    }
    assert listed["everywhere"] == {
        "name": "everywhere",
        "uri": "s3://adapters/a",
        "rank": 16,
        "replicas": {"all": True},
        "priority": 5,
    }
    assert listed["kept"]["replicas"] == {"min": 1} and listed["kept"]["credentials"] == {
        "secret": "hf",
        "key": "token",
    }
    assert listed["rare"]["replicas"] == {"min": 0}
    container = found["Deployment/chat-nvidia-l4"]["spec"]["template"]["spec"]["containers"][0]
    assert {"--enable-lora", "--max-loras=4", "--max-cpu-loras=16", "--max-lora-rank=32"} <= set(container["args"])
    assert {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"} in container["env"]


def test_one_more_adapter_changes_one_object_by_a_few_lines(tmp_path: Path) -> None:
    before, after = sets(tmp_path, items(400)), sets(tmp_path, items(401))
    (changed,) = [name for name in after if before.get(name) != after[name]]
    assert 0 < len(after[changed].splitlines()) - len(before[changed].splitlines()) <= 5
    assert set(before[changed].splitlines()) <= set(after[changed].splitlines())


def test_ten_thousand_adapters_fit(tmp_path: Path) -> None:
    found = sets(tmp_path, items(10_000))
    assert len(found) == 16
    assert max(len(text) for text in found.values()) < 300_000  # the API server takes 1.5 MiB
    assert max(text.count("- name: a") for text in found.values()) <= 1000


def test_adapters_never_restart_a_pod(tmp_path: Path) -> None:
    few, many = (objects(tmp_path, more=items(count), environment=GATEWAY) for count in (1, 9))
    assert few["Deployment/chat-nvidia-l4"] == many["Deployment/chat-nvidia-l4"]


@pytest.mark.parametrize(
    ("extra", "pools", "codes"),
    [
        (", replicas: all", "[{accelerator: nvidia-l4, replicas: 2}]", ["AC308"]),
        (", replicas: {min: 3}", "[{accelerator: nvidia-l4, replicas: 2}]", ["AC308"] * 9),
        (", replicas: {min: 1}", "[{accelerator: nvidia-l4, replicas: 1}]", ["AC308"]),
        (", replicas: {min: 1}", "[{accelerator: nvidia-l4, replicas: 2}]", []),
    ],
)
def test_room(tmp_path: Path, extra: str, pools: str, codes: list[str]) -> None:
    found = compiled(tmp_path, more=items(9, extra), pools=pools, environment=GATEWAY)
    assert [one.code for one in found.diagnostics] == codes


def test_a_finding_in_an_included_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "more.yml").write_text("adapters:\n  - {name: big, uri: s3://adapters/big, rank: 64}\n")
    (found,) = compiled(tmp_path, more="  adapters: {include: [more.yml]}\n", environment=GATEWAY).diagnostics
    assert (found.code, found.span.file, found.span.line) == ("AC212", "services/more.yml", 2)
