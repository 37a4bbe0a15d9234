"""Files that anybody may have written: judged, never trusted."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_runtime import precheck
from aibrix_runtime.errors import Failed
from aibrix_runtime.precheck import CONFIG, CONFIG_BYTES, HEADER_BYTES, WEIGHTS
from tests.runtime import written
from tests.runtime.sidecar import LLAMA


def refused(folder: Path) -> str:
    with pytest.raises(Failed) as caught:
        precheck.check(folder, LLAMA, 16, "x")
    assert caught.value.code == "unusable"
    return caught.value.message


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return written.adapter(tmp_path / "good")


def header(folder: Path, text: str, data: bytes = b"") -> None:
    raw = text.encode()
    (folder / WEIGHTS).write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def test_a_good_one(good: Path) -> None:
    assert precheck.check(good, LLAMA, 16, "x") == (8, ("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("length", "words"),
    [(10 << 30, "is cut off"), (2**64 - 1, "is cut off"), (0, "can not be read")],
)
def test_a_header_of_any_length(good: Path, length: int, words: str) -> None:
    path = good / WEIGHTS
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    assert words in refused(good)


def test_a_header_that_is_there_and_too_large(good: Path) -> None:
    """A sparse file: it has 10 GB and costs nothing."""
    with (good / WEIGHTS).open("wb") as stream:
        stream.write((HEADER_BYTES + 1).to_bytes(8, "little"))
        stream.truncate(10 << 30)
    assert f"has a header of {HEADER_BYTES + 1} bytes" in refused(good)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no JSON object"),
        ('{"a": 1}', "the entry of a is no tensor"),
        ('{"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}, "a": 1}', "a key stands there twice"),
        ('{"a": {"dtype": "BF16", "shape": [NaN], "data_offsets": [0, 2]}}', "NaN is no JSON"),
        ('{"a": {"dtype": "BF16", "shape": [true], "data_offsets": [0, 2]}}', "is no tensor"),
        ('{"a": {"dtype": "BF16", "shape": [-1], "data_offsets": [0, 2]}}', "is no tensor"),
        ('{"a": {"dtype": "XXX", "shape": [1], "data_offsets": [0, 2]}}', "is no tensor"),
        ('{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 2]}}', "its shape another number"),
        ('{"a": {"dtype": "BF16", "shape": [1], "data_offsets": [2, 4]}}', "begins at 2, and the tensor before it"),
        ('{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}', "has 2 bytes of tensors"),
        ('{"a": {"dtype": "BF16", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 4]}}', "can not be read"),
        ("[" * 100_000, "can not be read"),
    ],
)
def test_hostile_headers(good: Path, text: str, words: str) -> None:
    header(good, text, b"\0\0")
    assert words in refused(good)


def test_a_config_that_is_none(good: Path) -> None:
    for text, words in (("{", "can not be read"), ("1", "no JSON object"), ('{"r": 1, "r": 2}', "twice")):
        (good / CONFIG).write_text(text)
        assert words in refused(good)
    (good / CONFIG).write_bytes(b" " * (CONFIG_BYTES + 1))
    assert f"above {CONFIG_BYTES} bytes" in refused(good)


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_any_bytes_are_refused_and_nothing_raises_else(
    tmp_path_factory: pytest.TempPathFactory, config: bytes, weights: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / CONFIG).write_bytes(config)
    (folder / WEIGHTS).write_bytes(weights)
    refused(folder)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=4)
    | st.lists(st.integers(-2, 9), max_size=3)
)


@given(
    st.dictionaries(
        st.text(max_size=5), st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), VALUES), max_size=3
    )
)
def test_any_header_is_refused_and_nothing_raises_else(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, Any]
) -> None:
    folder = written.adapter(tmp_path_factory.mktemp("any"))
    header(folder, json.dumps(rows), bytes(8))
    refused(folder)
