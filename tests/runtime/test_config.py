"""runtime.json: what the compiler writes is read, anything else is one clear line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_runtime.config import Mistake, load, parse
from tests.mock.mocks import ROOT


def written() -> dict[str, Any]:
    """As the compiler writes it for example 05."""
    import yaml

    for path in sorted((ROOT / "examples/05-lora").rglob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text()):
            if isinstance(one, dict) and "runtime.json" in (one.get("data") or {}):
                found: dict[str, Any] = json.loads(one["data"]["runtime.json"])
                return found
    raise AssertionError("no runtime.json among the example's files")


WRITTEN = written()


def test_what_the_compiler_writes_is_read() -> None:
    found = parse(WRITTEN)
    assert found.adapters and found.adapters.max_cached >= found.adapters.max_loaded
    assert "read" in next(iter(found.subjects.values()))


def changed(path: str, value: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(WRITTEN))
    *folders, last = path.split(".")
    table = data
    for name in folders:
        table = table[name]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("engine.kind", "sglang", 'engine.kind: one of vllm, mock, not "sglang"'),
        ("engine.url", None, "engine.url: missing"),
        ("adapters.max_rank", "many", 'adapters.max_rank: a whole number, not "many"'),
        ("adapters.max_rank", True, "adapters.max_rank: a whole number, not true"),
        ("adapters.max_rank", 0, "adapters.max_rank: at least 1, not 0"),
        ("adapters.allow", ["s3://bucket"], 'allow: "s3://bucket" does not end with a slash'),
        ("adapters.allow", [1], "adapters.allow: a list of texts, not of 1"),
        ("access.subjects", {"x": ["write"]}, "access.subjects.x: write is no right"),
        ("base.mla", 1, "base.mla: true or false, not 1"),
        ("more", 1, "more: unknown"),
        ("engine.more", 1, "engine.more: unknown"),
        ("claims", [], "claims: a table, not []"),
    ],
)
def test_a_mistake_is_said_with_its_place(path: str, value: Any, words: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse(changed(path, value))
    assert words in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "runtime.json"
    for text, words in (("{", "not JSON"), ("[]", "the file: a table, not []"), ("[" * 10**5, "not JSON")):
        path.write_text(text)
        with pytest.raises(Mistake) as caught:
            load(path)
        assert str(path) in str(caught.value) and words in str(caught.value)
    with pytest.raises(Mistake, match="No such file"):
        load(tmp_path / "nothing")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(WRITTEN)), inner, max_size=4),
)


@given(JSON)
def test_anything_else_is_a_mistake_and_no_crash(data: Any) -> None:
    with pytest.raises(Mistake):
        parse(data)
